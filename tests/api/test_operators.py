"""Workers and tokens are listed page by page."""

from __future__ import annotations

import pytest

from engine.operations import tokens, workers
from engine.operations.workers import Registration
from tests.api.service import Service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/api/v1/tokens", "/api/v1/workers?live=true", "/api/v1/workers"])
async def test_pages_together_are_the_list(service: Service, path: str) -> None:
    for number in range(5):
        await tokens.create(service.database, name=f"t{number}", scopes=["read"])
        await workers.register(service.database, Registration(f"w{number}", "host", 1, "0", [], 1))
    question = f"{path}{'&' if '?' in path else '?'}limit="
    [whole] = (await service.client.get(f"{question}500")).json().values()
    assert len(whole) == 5
    pages = []
    for offset in (0, 2, 4, 6):
        [page] = (await service.client.get(f"{question}2&offset={offset}")).json().values()
        pages.append(page)
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [row for page in pages for row in page] == whole


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "limit=x"])
async def test_bad_page_is_refused(service: Service, query: str) -> None:
    for path in ("/api/v1/tokens", "/api/v1/workers"):
        assert (await service.client.get(f"{path}?{query}")).status_code == 422
