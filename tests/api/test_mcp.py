"""Direct MCP calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.api.app import create_app
from engine.executors.base import ExecutorSettings
from engine.executors.noop import NoopExecutor
from engine.executors.registry import ExecutorRegistry
from engine.store.database import Database
from tests.api.service import Service, options

pytestmark = pytest.mark.anyio


async def test_call_is_accepted_without_a_worker_and_done_by_a_later_one(service: Service) -> None:
    response = await service.client.post("/mcp/call", json={"tool_name": "t", "input": {"k": 1}})
    assert response.status_code == 202
    snapshot = response.json()
    assert snapshot.keys() == {"status", "handle_id"}
    assert snapshot["status"] == "accepted"
    assert len(snapshot["handle_id"]) == len("mcp-1775182513428872000")
    async with service.working():
        record = await service.poll(f"/mcp/tasks/{snapshot['handle_id']}")
    assert record["output"] == {"echo": {"k": 1}, "tool_name": "t"}
    assert [s["message"] for s in record["progress"]] == ["task accepted", "task started", "task completed"]
    assert record["attempt"] == 1
    assert (await service.client.get("/tasks")).json() == []


async def test_calls_at_once_have_handles_of_their_own(service: Service) -> None:
    answers = [(await service.client.post("/mcp/call", json={})).json() for _ in range(5)]
    assert len({answer["handle_id"] for answer in answers}) == 5


async def test_call_without_input_echoes_null(service: Service) -> None:
    async with service.working():
        handle = (await service.client.post("/mcp/call", json={"tool_name": "t"})).json()["handle_id"]
        record = await service.poll(f"/mcp/tasks/{handle}")
    assert record["output"] == {"echo": None, "tool_name": "t"}
    assert "task_id" not in record


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"id": 1}', b'{"timeout": "1"}', b'{"input": "\\u0000"}']
)
async def test_bad_body_is_refused(service: Service, body: bytes) -> None:
    response = await service.client.post("/mcp/call", content=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("invalid JSON: ")
    assert service.rows()["run"] == 0


async def test_unknown_handle_is_not_found(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop"})
    for handle in ("mcp-1", "nothing", "mcp-0000000000000000001"):
        response = await service.client.get(f"/mcp/tasks/{handle}")
        assert response.status_code == 404
        assert response.json() == {"error": f"handle not found: {handle}"}


async def test_without_an_executor_mcp_is_unavailable(database: Database, tmp_path: Path) -> None:
    executors = ExecutorRegistry.from_executors([NoopExecutor(ExecutorSettings(file_root=tmp_path))])
    async with Service(database, executors, create_app(database, executors, options())) as service:
        requests: list[tuple[str, str, Any]] = [
            ("GET", "/mcp/tools", None),
            ("POST", "/mcp/call", {}),
            ("GET", "/mcp/tasks/mcp-1", None),
        ]
        for method, path, body in requests:
            response = await service.client.request(method, path, json=body)
            assert response.status_code == 503
            assert response.json() == {"error": "mcp executor is not available"}
        unknown = await service.submit({"id": "a", "type": "mcp"})
        assert unknown.json() == {"error": "unknown task type: mcp (available: os)"}
