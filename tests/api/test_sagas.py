"""Sagas over REST: what is told of compensations, and what people may do about those that failed."""

from __future__ import annotations

import pytest

from engine.model.graph import Compensation
from engine.model.outcomes import Failed, Succeeded
from engine.operations import submits, tasks
from tests.api.service import Service
from tests.factories import KIND, graph, request, session_async

pytestmark = pytest.mark.anyio


async def failed_saga(service: Service) -> str:
    """The path of a saga of whose compensations, `b` and `a`, both have failed."""
    undone = {name: {"compensation": Compensation(KIND)} for name in "ab"}
    accepted = await submits.submit(service.database, graph("a -> b -> c", **undone))
    worker = await session_async(service.database)
    for outcome in (Succeeded(), Succeeded(), Failed("no"), Failed("sunk"), Failed("bank is closed")):
        [lease] = await tasks.claim(service.database, request(worker), actor="w")
        await tasks.finish(service.database, [(lease, outcome)], actor="w")
    return f"/api/v1/runs/{accepted.run_id}/saga"


async def test_a_skipped_compensation_is_shown_with_who_and_why(service: Service) -> None:
    path = await failed_saga(service)
    answer = await service.client.post(f"{path}/skip", json={"tasks": ["b"], "reason": "it is lost"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == (await service.client.get(path)).json()
    assert answer.json()["state"] == "failed"
    shown = {
        task["name"]: (task["state"], task["is_skipped"], task["skipped_by"], task["skip_reason"])
        for task in answer.json()["compensations"]
    }
    assert shown == {"b": ("failed", True, "local", "it is lost"), "a": ("failed", False, None, None)}
    again = await service.client.post(f"{path}/retry")
    assert {task["name"]: task["state"] for task in again.json()["compensations"]} == {
        "b": "failed",
        "a": "available",
    }


async def test_a_saga_whose_failed_compensations_are_all_skipped_is_signed_off(service: Service) -> None:
    path = await failed_saga(service)
    answer = await service.client.post(f"{path}/skip", json={"tasks": ["a", "b"], "reason": "all by hand"})
    assert answer.json()["state"] == "signed_off"
    assert (await service.client.post(f"{path}/retry")).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"tasks": ["c"], "reason": "r"}, 404, "has no compensation of task 'c'"),
        ({"tasks": [], "reason": "r"}, 422, "name at least one"),
        ({"tasks": ["b"]}, 400, "missing required field `reason`"),
        ({"tasks": "b", "reason": "r"}, 400, "Expected `array`"),
        ({"tasks": ["b"], "reason": "\x00"}, 400, "reason: "),
        ({"tasks": ["\x00"], "reason": "r"}, 400, "tasks: "),
    ],
)
async def test_a_skip_that_cannot_be_is_a_problem_and_changes_nothing(
    service: Service, body: dict[str, object], status: int, message: str
) -> None:
    path = await failed_saga(service)
    before = (await service.client.get(path)).json()
    answer = await service.client.post(f"{path}/skip", json=body)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    assert (await service.client.get(path)).json() == before


async def test_sagas_that_are_none_or_have_not_failed_have_nothing_to_skip(service: Service) -> None:
    body = {"tasks": ["a"], "reason": "r"}
    run = (await service.client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})).json()
    answer = await service.client.post(f"/api/v1/runs/{run['run_id']}/saga/skip", json=body)
    assert (answer.status_code, "is no saga" in answer.json()["detail"]) == (404, True)
    pending = await submits.submit(service.database, graph("a", a={"compensation": Compensation(KIND)}))
    answer = await service.client.post(f"/api/v1/runs/{pending.run_id}/saga/skip", json=body)
    assert (answer.status_code, "is pending" in answer.json()["detail"]) == (409, True)
