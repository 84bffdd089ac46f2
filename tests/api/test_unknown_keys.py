"""Keys that nobody knows, in bodies of `/api/v1`: refused, for a misspelt one would do something else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.service import Service
from tests.api.test_workflows import data, execute, refused, upload

pytestmark = pytest.mark.anyio

MISSPELT: list[tuple[str, dict[str, Any]]] = [
    ("/api/v1/workflows", {"content": "x", "enviroment": {}}),
    ("/api/v1/workflows/orders/execute", {"param": {"region": "us"}}),
    ("/api/v1/instances/{run}/rerun", {"param": {"region": "us"}}),
    ("/api/v1/instances/{run}/cancel", {"reson": "no"}),
    ("/api/v1/instances/{run}/events", {"type": "x", "playload": 1}),
    ("/api/v1/schedules/nightly/trigger", {"params": {"region": "us"}}),
    ("/api/v1/runs/{run}/cancel", {"reson": "no"}),
    ("/api/v1/runs/{run}/signals/go", {"playload": 1}),
    ("/api/v1/runs/{run}/saga/skip", {"tasks": [], "reason": "x", "task": "y"}),
    ("/api/v1/runs/{run}/saga/sign-off", {"reason": "x", "reasons": "y"}),
]


@pytest.mark.parametrize(("path", "body"), MISSPELT, ids=[path for path, _ in MISSPELT])
async def test_unknown_keys_are_refused_and_nothing_is_done(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    await upload(service)
    run = await execute(service)
    schedule = {"workflow_id": "orders", "name": "nightly", "expression": "0 0 3 * * *"}
    await data(await service.client.post("/api/v1/schedules", json=schedule))
    before = service.rows()
    answer = await service.client.post(path.format(run=run), json=body)
    assert answer.status_code == 400, answer.text
    assert "invalid JSON: Object contains unknown field `" in answer.text
    assert service.rows() == before


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"x": 1}', b"\xff"])
async def test_a_trigger_takes_no_body_but_an_empty_one(service: Service, body: bytes) -> None:
    await upload(service)
    schedule = {"workflow_id": "orders", "name": "nightly", "expression": "0 0 3 * * *"}
    await data(await service.client.post("/api/v1/schedules", json=schedule))
    path = "/api/v1/schedules/nightly/trigger"
    refused(await service.client.post(path, content=body), 400)
    assert service.rows()["run"] == 0
    for fine in (b"", b" \n", b"{}"):
        await data(await service.client.post(path, content=fine))
