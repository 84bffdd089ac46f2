"""Health, readiness, metrics, trace ids, access log, overload, lost databases."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.api.execgo.system import format_uptime
from engine.store.database import Database
from engine.store.schema import counter
from engine.telemetry import JsonFormatter
from tests.api.service import Service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (9.9, "9s"), (60, "1m0s"), (3600, "1h0m0s"), (3723, "1h2m3s"), (-1, "0s")],
)
def test_uptime_is_written_as_go_writes_it(seconds: float, text: str) -> None:
    assert format_uptime(timedelta(seconds=seconds)) == text


async def test_root_tells_where_to_go_on(service: Service) -> None:
    response = await service.client.get("/")
    answer = response.json()
    assert response.status_code == 200
    assert (answer["name"], answer["version"]) == ("Task Engine", "v1.0.0")
    assert {"/schema", "/health", "/tasks", "/api/v1/runs"} <= set(answer["links"].values())
    for path in answer["links"].values():
        assert (await service.client.get(path)).status_code == 200
    assert (await service.client.head("/")).status_code == 200
    refused = await service.client.post("/")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_health_tells_status_version_and_uptime(service: Service) -> None:
    answer = (await service.client.get("/health")).json()
    uptime = answer.pop("uptime")
    assert uptime.endswith("s")
    data = answer.pop("data")
    assert answer == {"status": "ok", "version": "v1.0.0", "code": 0, "message": "success"}
    assert datetime.fromisoformat(data.pop("timestamp")).tzinfo is not None
    assert data == {"status": "healthy", "version": "v1.0.0", "uptime": uptime}


async def test_ready_says_what_a_commit_survives(service: Service) -> None:
    answer = (await service.client.get("/ready")).json()
    assert answer["status"] == "ready"
    assert answer["database"] in ("sqlite", "postgresql")
    assert answer["durability"]


async def test_without_tables_nothing_is_ready(service: Service) -> None:
    with service.database.engine.begin() as connection:
        counter.drop(connection)
    response = await service.client.get("/ready")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert "counter" not in response.text
    assert (await service.client.get("/health")).status_code == 200


# --- metrics


async def test_every_end_is_counted_once(service: Service) -> None:
    async with service.working():
        await service.submit(
            {"id": "ok", "type": "noop"},
            {"id": "bad", "type": "shell", "params": {"command": "nope"}},
            {"id": "bad2", "type": "shell", "params": {"command": "nope"}},
            {"id": "below", "type": "mcp", "depends_on": ["bad", "bad2"]},
            {"id": "deeper", "type": "cli-skills", "depends_on": ["below"]},
        )
        for name in ("ok", "bad2", "deeper"):
            await service.poll(f"/tasks/{name}")
    assert (await service.client.get("/metrics")).json() == {
        "tasks_total": 5,
        "tasks_running": 0,
        "tasks_succeeded": 1,
        "tasks_failed": 4,
        "by_type": {"cli-skills": 1, "mcp": 1, "os": 3},
    }


async def test_new_database_has_empty_metrics(service: Service) -> None:
    assert (await service.client.get("/metrics")).json()["by_type"] == {}


@pytest.mark.parametrize(
    ("accept", "is_text"),
    [
        ("*/*", False),
        ("application/json, text/plain, */*", False),
        ("text/plain", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("image/png", False),
        ("junk", False),
    ],
)
async def test_accept_chooses_the_form_of_metrics(service: Service, accept: str, is_text: bool) -> None:
    response = await service.client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    expected = "text/plain; version=0.0.4; charset=utf-8" if is_text else "application/json"
    assert response.headers["content-type"] == expected


async def test_prometheus_text_has_the_same_numbers(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop"}, {"id": "b", "type": "mcp"})
    text = (await service.client.get("/metrics/prometheus")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert 'engine_tasks_submitted_total{kind="noop"} 1' in lines
    assert "engine_tasks_open 2" in lines
    assert all(line.rpartition(" ")[2].isdigit() for line in lines)


# --- trace ids and the log


@pytest.mark.parametrize("path", ["/health", "/tasks/none", "/nothing", "/tasks/", "/api/v1/runs?limit=0"])
async def test_trace_id_is_on_every_answer(service: Service, path: str) -> None:
    fresh = (await service.client.get(path)).headers["x-trace-id"]
    assert len(fresh) == 16
    assert set(fresh) <= set("0123456789abcdef")
    for given in ("0123", "Ünï cöde".encode("latin-1"), "a,b;c=d \t."):
        headers: Any = {"x-trace-id": given}
        response = await service.client.get(path, headers=headers)
        raw = dict(response.headers.raw)[b"x-trace-id"]
        assert raw == (given.encode() if isinstance(given, str) else given)
    empty = (await service.client.get(path, headers={"x-trace-id": ""})).headers["x-trace-id"]
    assert len(empty) == 16


async def test_answers_carry_protective_headers(service: Service) -> None:
    for path in ("/health", "/nothing", "/schema"):
        headers = (await service.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("access_log", "paths"), [("errors", ["/a\x1b"]), ("all", ["/health", "/a\x1b"]), ("off", [])]
)
async def test_access_log_is_one_json_object_a_line(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, access_log: str, paths: list[str]
) -> None:
    caplog.set_level(logging.INFO, "engine.api")
    async with Service.of(database, tmp_path, access_log=access_log) as service:
        await service.client.get("/health", headers={"x-trace-id": "t1"})
        await service.client.get("/a%1b", headers={"x-trace-id": "t2"})
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == "engine.api"]
    entries = [json.loads(line) for line in lines]
    assert [entry["path"] for entry in entries] == paths
    for line, entry in zip(lines, entries, strict=True):
        assert "\n" not in line
        assert "\x1b" not in line
        assert entry.keys() == {"time", "level", "msg", "trace_id", "method", "path", "status", "duration_ms"}


# --- not able now


async def test_too_many_open_tasks_are_refused_before_acceptance(database: Database, tmp_path: Path) -> None:
    async with Service.of(database, tmp_path, max_open_tasks=2) as service:
        first = await service.submit({"id": "a", "type": "noop"}, {"id": "b", "type": "noop"})
        assert first.status_code == 202
        requests: list[tuple[str, Any]] = [
            ("/tasks", {"tasks": [{"id": "c", "type": "noop"}]}),
            ("/mcp/call", {}),
            ("/adapters/actions", {"action": {"kind": "noop"}}),
            ("/api/v1/runs", {"tasks": [{"name": "c", "kind": "noop"}]}),
        ]
        for path, body in requests:
            response = await service.client.post(path, json=body)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
        assert service.rows()["run"] == 1


async def test_lost_database_is_a_503_without_details(row_locking_url: str, tmp_path: Path) -> None:
    database = Database(row_locking_url, wake_others=False)
    away = sa.make_url(row_locking_url).set(database="not_there").render_as_string(hide_password=False)
    database.close()
    database = Database(away, wake_others=False)
    async with Service.of(database, tmp_path) as service:
        requests: list[tuple[str, str, Any]] = [
            ("GET", "/tasks", None),
            ("GET", "/metrics", None),
            ("GET", "/ready", None),
            ("GET", "/api/v1/runs", None),
            ("GET", "/api/v1/instances", None),
            ("POST", "/tasks", {"tasks": [{"id": "c", "type": "noop"}]}),
            ("DELETE", "/tasks/a", None),
        ]
        for method, path, body in requests:
            response = await service.client.request(method, path, json=body)
            assert response.status_code == 503, response.text
            assert int(response.headers["retry-after"]) > 0
            assert response.headers["x-error-code"] == "store_unavailable"
            assert "not_there" not in response.text
        assert (await service.client.get("/health")).status_code == 200
    database.close()
