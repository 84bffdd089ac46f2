"""Workers and tokens are listed page by page; limits are set and lifted."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from engine.model.graph import MAX_AT_MOST
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


async def test_limits_are_set_listed_and_lifted(service: Service) -> None:
    client = service.client
    for key, at_most in (("b/ü", 2), ("*", 7), ("b/ü", 3)):
        answer = await client.put(f"/api/v1/limits/{quote(key, safe='')}", json={"at_most": at_most})
        assert (answer.status_code, answer.json()) == (200, {"key": key, "at_most": at_most, "running": 0})
    listed = (await client.get("/api/v1/limits")).json()
    assert [(each["key"], each["at_most"]) for each in listed["limits"]] == [("*", 7), ("b/ü", 3)]
    [second] = (await client.get("/api/v1/limits?limit=1&offset=1")).json()["limits"]
    assert second["key"] == "b/ü"
    assert (await client.delete("/api/v1/limits/*")).status_code == 204
    [lifted, _] = (await client.get("/api/v1/limits")).json()["limits"]
    assert lifted == {"key": "*", "at_most": MAX_AT_MOST, "running": 0}


@pytest.mark.parametrize(
    "body",
    ["[", "{}", '{"at_most": 0}', '{"at_most": 1000001}', '{"at_most": "3"}', '{"at_most": 1, "x": 1}'],
)
async def test_what_is_no_limit_is_refused(service: Service, body: str) -> None:
    answer = await service.client.put("/api/v1/limits/few", content=body)
    assert answer.status_code == (400 if body == "[" else 422)
    assert (await service.client.get("/api/v1/limits")).json() == {"limits": []}


@pytest.mark.parametrize("key", ["a%01b", "x" * 201, "%20"])
async def test_a_limit_has_a_name(service: Service, key: str) -> None:
    assert (await service.client.put(f"/api/v1/limits/{key}", json={"at_most": 1})).status_code in (400, 422)
    assert (await service.client.delete(f"/api/v1/limits/{key}")).status_code in (404, 422)
    assert (await service.client.get("/api/v1/limits")).json() == {"limits": []}
