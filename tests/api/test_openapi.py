"""The OpenAPI document is complete and true."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from engine.api.access import SCOPES
from engine.api.app import create_app
from engine.api.server import new_event_loop, serve
from engine.store.database import Database
from tests.api.service import Service, options, registry

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
_HIDDEN = {"/schema", "/schema/openapi.json"}
# They ask for something without a body.
BARE = ("/pause", "/resume", "/cancel", "/retry", "/enable", "/disable", "/trigger")
WITH_BODY = ("post", "patch", "put")
# These take a reason.
CANCELS = ("/api/v1/instances/{instance_id}/cancel", "/api/v1/runs/{run_id}/cancel")


@pytest.mark.anyio
async def test_every_route_is_documented(service: Service) -> None:
    document = (await service.client.get("/schema/openapi.json")).json()
    documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert documented == {(method, path) for method, path in SCOPES if path not in _HIDDEN}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            takes_body = method in WITH_BODY and (path in CANCELS or not path.endswith(BARE))
            assert ("requestBody" in operation) == takes_body, (method, path)


@pytest.mark.anyio
async def test_every_reference_leads_somewhere(service: Service) -> None:
    document = (await service.client.get("/schema/openapi.json")).json()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= document["components"]["schemas"].keys()


@pytest.mark.anyio
async def test_page_works_without_network_and_scripts(service: Service) -> None:
    response = await service.client.get("/schema")
    assert response.headers["content-type"].startswith("text/html")
    assert "<script" not in response.text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert "/api/v1/runs/{run_id}/events" in response.text


@contextmanager
def live(database: Database, folder: Path) -> Iterator[str]:
    """The server in a thread of its own."""
    started = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["stop"], found["loop"] = asyncio.Event(), asyncio.get_running_loop()

        def on_ready(port: int) -> None:
            found["port"] = port
            started.set()

        app = create_app(database, registry(folder), options(allowed_hosts=("*",)))
        await serve(app, port=0, stop=found["stop"], grace_seconds=1, on_ready=on_ready)

    def run() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(20)
        yield f"http://127.0.0.1:{found['port']}"
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(20)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # schemathesis' own
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_answers_are_as_documented(database: Database, tmp_path: Path, mode: GenerationMode) -> None:
    with live(database, tmp_path) as url:
        schema = schemathesis.openapi.from_url(f"{url}/schema/openapi.json")
        operations = sorted((found.ok() for found in schema.get_all_operations()), key=_lasts)
        assert len(operations) > 25
        known = _known_ids(url)
        in_vain = {operation.label for operation in operations if not _exercise(operation, mode, known)}
    if mode is GenerationMode.POSITIVE:  # what is described as right has to be able to work
        assert in_vain == NEEDS_ITS_MOMENT


def _lasts(operation: Any) -> int:
    """What ends others' chances comes late."""
    return operation.path.endswith(("/cancel", "/disable")) + 2 * (operation.method.upper() == "DELETE")


NEEDS_ITS_MOMENT = {
    # a run that failed
    "POST /api/v1/runs/{run_id}/retry",
    "POST /api/v1/instances/{instance_id}/retry",
    # a run with compensations, and some that failed
    "GET /api/v1/runs/{run_id}/saga",
    "POST /api/v1/runs/{run_id}/saga/retry",
    "POST /api/v1/runs/{run_id}/saga/skip",
    "POST /api/v1/runs/{run_id}/saga/sign-off",
    # YAML and cron expressions that somebody wrote
    "POST /api/v1/workflows",
    "POST /api/v1/schedules",
    # parameters that a plug-in accepts
    "POST /api/v1/plugins/bindings",
    # an instance with a streaming task
    "POST /api/v1/instances/{instance_id}/events",
    # no unfinished instances
    "DELETE /api/v1/workflows/{workflow_id}",
}
WORKFLOW = """
workflows:
  definitions:
    - workflow_id: known
      tasks: [{task_id: only, kind: noop}]
"""
SCHEDULE = {"workflow_id": "known", "name": "known", "expression": "0 0 3 * * *"}
BINDING = {"id": "known", "plugin": "webhook", "event": "task.failed", "params": {"url": "http://h"}}


def _known_ids(url: str) -> dict[str, str]:
    """Something to find behind each parameter of a path."""
    with httpx.Client(base_url=url) as client:
        run = client.post("/api/v1/runs", json={"tasks": [{"name": "known", "kind": "noop"}]}).json()
        client.post("/tasks", json={"tasks": [{"id": "known", "type": "noop"}]})
        token = client.post("/api/v1/tokens", json={"name": "known", "scopes": ["read"]}).json()
        call = client.post("/mcp/call", json={}).json()
        client.post("/api/v1/workflows", json={"content": WORKFLOW}).raise_for_status()
        instance = client.post("/api/v1/workflows/known/execute").json()["data"]
        schedule = client.post("/api/v1/schedules", json=SCHEDULE).json()["data"]
        client.post("/api/v1/plugins/bindings", json=BINDING).raise_for_status()
        client.put("/api/v1/limits/known", json={"at_most": 1}).raise_for_status()
    return {
        "run_id": str(run["run_id"]),
        "name": "known",
        "task_id": "known",
        "token_id": token["id"],
        "handle": call["handle_id"],
        "workflow_id": "known",
        "version": "1",
        "schedule_id": schedule["id"],
        "instance_id": instance["instance_id"],
        "binding_id": "known",
        "key": "known",
    }


def _exercise(operation: Any, mode: GenerationMode, known: dict[str, str]) -> bool:
    """Whether one of the requests was answered with success."""
    statuses = set()

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), is_known=strategies.booleans())
    def attempt(case: Any, is_known: bool) -> None:
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        if is_known and case.path_parameters:
            case.path_parameters = {name: known[name] for name in case.path_parameters}
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=list(CHECKS))

    with suppress(Unsatisfiable):  # nothing about this operation can be wrong
        attempt()
    return any(status < 300 for status in statuses)
