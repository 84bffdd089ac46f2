"""The runs of /api/v1."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.service import Service

pytestmark = pytest.mark.anyio
DONE = {"succeeded", "failed", "cancelled"}


async def submit(service: Service, *tasks: dict[str, Any], **run: Any) -> int:
    response = await service.client.post("/api/v1/runs", json={"tasks": list(tasks), **run})
    assert response.status_code == 202, response.text
    return int(response.json()["run_id"])


async def finished(service: Service, run_id: int) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        details = (await service.client.get(f"/api/v1/runs/{run_id}")).json()
        if details["run"]["state"] in DONE:
            return dict(details)
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "kind": "noop"} for name in names]


FULL: dict[str, Any] = {
    "name": "b",
    "kind": "shell",
    "params": {"script": "echo hi"},
    "depends_on": ["a", {"name": "c"}],
    "rule": "all_done",
    "queue": "special",
    "priority": "high",
    "delay_ms": 5,
    "timeout_ms": 5000,
    "retry": {
        "max_attempts": 3,
        "max_crashes": 2,
        "backoff": "fixed",
        "initial_ms": 1,
        "factor": 1.5,
        "max_ms": 10,
        "jitter": 0,
    },
}


async def test_run_is_stored_as_submitted(service: Service) -> None:
    run_id = await submit(service, *named("a", "c"), FULL, name="nightly", labels={"team": "data"})
    details = (await service.client.get(f"/api/v1/runs/{run_id}")).json()
    assert details["run"]["name"] == "nightly"
    assert details["run"]["labels"] == {"team": "data"}
    assert details["run"]["progress"]["total"] == details["run"]["progress"]["open"] == 3
    assert details["edges"] == [
        {"upstream": "a", "downstream": "b", "condition": None},
        {"upstream": "c", "downstream": "b", "condition": None},
    ]
    task = details["tasks"][2]
    same = ("name", "kind", "params", "rule", "queue", "timeout_ms", "retry")
    assert {key: task[key] for key in same} == {key: FULL[key] for key in same}
    assert (task["priority"], task["depends_on"], task["state"]) == (10, ["a", "c"], "blocked")


async def test_run_is_followed_to_its_end(service: Service) -> None:
    async with service.working():
        run_id = await submit(service, *named("a", "c"), FULL)
        details = await finished(service, run_id)
    assert details["run"]["state"] == "succeeded"
    path = f"/api/v1/runs/{run_id}"
    shown = (await service.client.get(f"{path}/tasks/b")).json()
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["succeeded"]
    assert shown["task"]["last"]["result"]["stdout"] == "hi\n"
    logs = (await service.client.get(f"{path}/logs?task=b")).json()["lines"]
    assert [line["text"] for line in logs if line["stream"] == "stdout"] == ["hi"]
    events = (await service.client.get(f"{path}/events")).json()
    assert [event["number"] for event in events["events"]] == list(range(1, events["last"] + 1))
    rest = (await service.client.get(f"{path}/events?after={events['last'] - 2}")).json()
    assert rest["events"] == events["events"][-2:]


async def test_failed_run_is_retried(service: Service) -> None:
    bad = {"name": "bad", "kind": "file", "params": {"action": "read", "path": "missing"}}
    async with service.working():
        run_id = await submit(service, *named("a"), bad, {"name": "c", "kind": "noop", "depends_on": ["bad"]})
        assert (await finished(service, run_id))["run"]["state"] == "failed"
        response = await service.client.post(f"/api/v1/runs/{run_id}/retry")
        assert response.status_code == 200
        await finished(service, run_id)
        shown = (await service.client.get(f"/api/v1/runs/{run_id}/tasks/bad")).json()
    assert len(shown["attempts"]) == 2


async def test_tasks_of_a_cancelled_run_say_what_for(service: Service) -> None:
    run_id = await submit(service, *named("a"))
    path = f"/api/v1/runs/{run_id}"
    for wrong in (b"{", b'{"reason": ""}', b'{"reason": 1}', b'{"reason": "a\\u0000"}'):
        assert (await service.client.post(f"{path}/cancel", content=wrong)).status_code == 400
    assert (await service.client.get(path)).json()["run"]["state"] == "pending"
    cancelled = await service.client.post(f"{path}/cancel", json={"reason": "wrong day"})
    assert cancelled.json()["state"] == "cancelled"
    [task] = (await service.client.get(f"{path}/tasks")).json()["tasks"]
    assert task["reason"] == "wrong day"


async def test_pause_resume_cancel_delete(service: Service) -> None:
    run_id = await submit(service, *named("a"))
    path = f"/api/v1/runs/{run_id}"
    assert (await service.client.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await service.client.post(f"{path}/pause")).json()["state"] == "paused"
    unfinished = await service.client.delete(path)
    assert unfinished.status_code == 409
    assert unfinished.json()["type"] == "/problems/conflict"
    assert (await service.client.post(f"{path}/resume")).json()["state"] == "pending"
    assert (await service.client.post(f"{path}/cancel")).json()["state"] == "cancelled"
    assert (await service.client.post(f"{path}/cancel")).json()["state"] == "cancelled"
    assert (await service.client.post(f"{path}/pause")).status_code == 409
    assert (await service.client.delete(path)).status_code == 204
    for method, suffix in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/tasks"),
        ("GET", "/tasks/a"),
        ("GET", "/logs"),
        ("GET", "/events"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ):
        gone = await service.client.request(method, path + suffix)
        assert gone.status_code == 404
        assert gone.headers["content-type"] == "application/problem+json"


async def test_lists_are_read_page_by_page(service: Service) -> None:
    ids = [await submit(service, *named("a"), name="x" if number % 2 else "y") for number in range(5)]
    first = (await service.client.get("/api/v1/runs?limit=2")).json()
    assert [run["id"] for run in first["runs"]] == ids[:-3:-1]
    rest = (await service.client.get(f"/api/v1/runs?limit=10&before={first['next_before']}")).json()
    assert [run["id"] for run in rest["runs"]] == ids[2::-1]
    assert rest["next_before"] is None
    assert len((await service.client.get("/api/v1/runs?name=x")).json()["runs"]) == 2
    assert (await service.client.get("/api/v1/runs?state=failed")).json()["runs"] == []
    assert len((await service.client.get("/api/v1/runs?state=pending")).json()["runs"]) == 5


async def test_tasks_and_edges_are_read_page_by_page(service: Service) -> None:
    chain = [{"name": f"t{n}", "kind": "noop", "depends_on": [f"t{n - 1}"] if n else []} for n in range(7)]
    run_id = await submit(service, *chain)
    details = (await service.client.get(f"/api/v1/runs/{run_id}?tasks_limit=3&edges_limit=4")).json()
    assert (len(details["tasks"]), len(details["edges"]), details["has_more_edges"]) == (3, 4, True)
    path = f"/api/v1/runs/{run_id}/tasks"
    rest = (await service.client.get(f"{path}?after={details['next_after']}")).json()
    assert [task["name"] for task in rest["tasks"]] == ["t3", "t4", "t5", "t6"]
    assert rest["next_after"] is None
    assert len((await service.client.get(f"{path}?state=blocked")).json()["tasks"]) == 6
    bare = (await service.client.get(f"/api/v1/runs/{run_id}?include=")).json()
    assert bare["tasks"] is bare["edges"] is None


async def test_long_poll_answers_when_something_happens(service: Service, looked: asyncio.Event) -> None:
    run_id = await submit(service, *named("a"))
    path = f"/api/v1/runs/{run_id}/events"
    assert (await service.client.get(f"{path}?after=1&wait=0.1")).json() == {
        "run_id": run_id,
        "events": [],
        "last": 1,
    }
    looked.clear()
    poll = asyncio.create_task(service.client.get(f"{path}?after=1&wait=10"))
    await looked.wait()
    await service.client.post(f"/api/v1/runs/{run_id}/cancel")
    events = (await poll).json()["events"]
    assert events[0]["number"] == 2


@pytest.mark.parametrize("name", ["a/b", "ä €", "100%"])
async def test_task_names_are_percent_decoded_once(service: Service, name: str) -> None:
    run_id = await submit(service, *named(name))
    response = await service.client.get(f"/api/v1/runs/{run_id}/tasks/{quote(name, safe='')}")
    assert response.json()["task"]["name"] == name


async def test_repeating_a_key_gives_the_same_run(service: Service) -> None:
    body, headers = {"tasks": named("a")}, {"idempotency-key": "k"}
    first = await service.client.post("/api/v1/runs", json=body, headers=headers)
    again = await service.client.post("/api/v1/runs", json=body, headers=headers)
    assert first.json() == {**again.json(), "is_repeat": False}
    assert again.json()["is_repeat"] is True
    assert first.headers["location"] == again.headers["location"] == f"/api/v1/runs/{first.json()['run_id']}"
    other = await service.client.post("/api/v1/runs", json={"tasks": named("b")}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "/problems/idempotency_mismatch"
    assert service.rows()["run"] == 1


TASK = {"name": "a", "kind": "noop"}
WRONG: list[tuple[Any, str]] = [
    ([], ""),
    ("x", ""),
    (None, ""),
    ({}, "/tasks"),
    ({"tasks": []}, "/tasks"),
    ({"tasks": [TASK], "nmae": "x"}, "/nmae"),
    ({"tasks": [TASK], "labels": {"a": 1}}, "/labels/a"),
    ({"tasks": [TASK], "labels": {f"l{n}": "" for n in range(101)}}, "/labels"),
    ({"tasks": [TASK], "labels": {"a": "\0"}}, "/labels/a"),
    ({"tasks": [TASK], "name": "x" * 201}, "/name"),
    ({"tasks": [TASK], "name": "a\nb"}, "/name"),
    ({"tasks": [{"kind": "noop"}]}, "/tasks/0/name"),
    ({"tasks": [{**TASK, "name": ""}]}, "/tasks/0/name"),
    ({"tasks": [{**TASK, "name": " "}]}, "/tasks/0/name"),
    ({"tasks": [{**TASK, "name": 5}]}, "/tasks/0/name"),
    ({"tasks": [{**TASK, "name": "\ud800"}]}, "malformed"),
    ({"tasks": [{**TASK, "kind": "nope"}]}, "/tasks/0/kind"),
    ({"tasks": [{**TASK, "retires": 1}]}, "/tasks/0/retires"),
    ({"tasks": [{**TASK, "depends_on": "a"}]}, "/tasks/0/depends_on"),
    ({"tasks": [{**TASK, "depends_on": [1]}]}, "/tasks/0/depends_on/0"),
    ({"tasks": [{**TASK, "depends_on": [{"nam": "a"}]}]}, "/tasks/0/depends_on/0"),
    ({"tasks": [{**TASK, "rule": "ALL_DONE"}]}, "/tasks/0/rule"),
    ({"tasks": [{**TASK, "priority": 10**9}]}, "/tasks/0/priority"),
    ({"tasks": [{**TASK, "priority": "huge"}]}, "/tasks/0/priority"),
    ({"tasks": [{**TASK, "priority": True}]}, "/tasks/0/priority"),
    ({"tasks": [{**TASK, "delay_ms": -1}]}, "/tasks/0/delay_ms"),
    ({"tasks": [{**TASK, "delay_ms": "5"}]}, "/tasks/0/delay_ms"),
    ({"tasks": [{**TASK, "timeout_ms": 0}]}, "/tasks/0/timeout_ms"),
    ({"tasks": [{**TASK, "timeout_ms": 1.0}]}, "/tasks/0/timeout_ms"),
    ({"tasks": [{**TASK, "timeout_ms": 2**64}]}, "/tasks/0/timeout_ms"),
    ({"tasks": [{**TASK, "available_at": "2026-01-01T00:00:00"}]}, "/tasks/0/available_at"),
    ({"tasks": [{**TASK, "available_at": 0}]}, "/tasks/0/available_at"),
    ({"tasks": [{**TASK, "available_at": "9999-12-31T23:59:59-23:00"}]}, "/tasks/0/available_at"),
    ({"tasks": [{**TASK, "available_at": "0001-01-01T00:00:00+23:00"}]}, "/tasks/0/available_at"),
    ({"tasks": [{**TASK, "retry": {"max_attempts": 0}}]}, "/tasks/0/retry/max_attempts"),
    ({"tasks": [{**TASK, "retry": {"max_attempts": True}}]}, "/tasks/0/retry/max_attempts"),
    ({"tasks": [{**TASK, "retry": {"factor": 0.5}}]}, "/tasks/0/retry/factor"),
    ({"tasks": [{**TASK, "retry": {"factor": "2"}}]}, "/tasks/0/retry/factor"),
    ({"tasks": [{**TASK, "retry": {"jitter": 1.5}}]}, "/tasks/0/retry/jitter"),
    ({"tasks": [{**TASK, "params": {"k": 2**63}}]}, "/tasks/0/params"),
    ({"tasks": [{**TASK, "params": {"\0": 1}}]}, "/tasks/0/params"),
    ({"tasks": [{**TASK, "params": json.loads("[" * 65 + "]" * 65)}]}, "/tasks/0/params"),
    ({"tasks": [{**TASK, "params": "x" * (256 * 1024)}]}, "/tasks/0/params"),
    ({"tasks": [{"name": "a", "kind": "sleep", "params": {"duration_ms": -1}}]}, "/tasks/0/params"),
    ({"tasks": [TASK, TASK]}, "graph"),
    ({"tasks": [{**TASK, "depends_on": ["a"]}]}, "graph"),
    ({"tasks": [{**TASK, "depends_on": ["zz"]}]}, "graph"),
    ({"tasks": [{**TASK, "available_at": "2026-01-01T00:00:00Z", "delay_ms": 5}]}, "graph"),
]


@pytest.mark.parametrize(("body", "pointer"), WRONG, ids=lambda value: str(value)[:60])
async def test_wrong_body_is_refused_with_a_pointer(service: Service, body: Any, pointer: str) -> None:
    before = service.rows()
    response = await service.client.post("/api/v1/runs", content=json.dumps(body))
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    if pointer == "malformed":
        assert response.status_code == 400
    elif pointer == "graph":
        assert (response.status_code, problem["type"]) == (422, "/problems/invalid_graph")
    else:
        assert response.status_code == 422, response.text
        assert pointer in [error["pointer"] for error in problem["errors"]]
    assert problem["instance"] == response.headers["x-trace-id"]
    assert len(response.text) < 10_000
    assert service.rows() == before


@pytest.mark.parametrize(
    ("tasks", "broken"),
    [
        ([{"depends_on": ["zz"]}], 'task "c" depends on unknown task "zz"'),
        ([{"depends_on": ["c"]}], 'task "c" cannot depend on itself'),
        ([{"name": "a"}], 'duplicate task id: "a"'),
    ],
)
async def test_a_broken_rule_of_the_graph_is_told_along_with_wrong_parameters(
    service: Service, tasks: list[dict[str, Any]], broken: str
) -> None:
    wrong = [{**TASK, "params": {"mesage": "x"}}, {"name": "b", "kind": "nope"}]
    response = await service.client.post(
        "/api/v1/runs", json={"tasks": [*wrong, *({"name": "c", "kind": "noop", **task} for task in tasks)]}
    )
    assert response.status_code == 422
    first, *others = response.json()["errors"]
    assert first == {"pointer": "/tasks", "message": broken}
    assert [error["pointer"] for error in others] == ["/tasks/0/params/mesage", "/tasks/1/kind"]


async def test_a_task_may_start_at_a_time_or_after_a_delay(service: Service) -> None:
    at, delay = {"available_at": "2999-01-01T00:00:00Z"}, {"delay_ms": 3_600_000}
    run_id = await submit(
        service, {**TASK, **at, "delay_ms": 0}, {**TASK, "name": "b", **delay, "available_at": None}
    )
    tasks = (await service.client.get(f"/api/v1/runs/{run_id}/tasks")).json()["tasks"]
    assert tasks[0]["available_at"] == at["available_at"]
    assert tasks[1]["available_at"] > tasks[1]["created_at"]
    refused = await service.client.post("/api/v1/runs", json={"tasks": [{**TASK, **at, **delay}]})
    assert refused.json()["detail"] == 'task "a": available_at and delay_ms cannot be given together'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a":' * 5000, b'{"tasks":[]} x'])
async def test_malformed_body_is_a_400(service: Service, body: bytes) -> None:
    response = await service.client.post("/api/v1/runs", content=body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


async def test_unknown_kind_names_the_known_ones(service: Service) -> None:
    response = await service.client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "nope"}]})
    assert "cli-skills, dns, file, http, mcp, noop" in response.json()["errors"][0]["message"]


async def test_workers_are_listed(service: Service) -> None:
    async with service.working(name="w1"):
        [worker] = (await service.client.get("/api/v1/workers?live=true")).json()["workers"]
        assert worker["name"] == "w1"
    assert (await service.client.get("/api/v1/workers?live=true")).json()["workers"] == []
    assert len((await service.client.get("/api/v1/workers")).json()["workers"]) == 1


async def test_tokens_are_made_listed_and_revoked(service: Service) -> None:
    made = (await service.client.post("/api/v1/tokens", json={"name": "ci", "scopes": ["read"]})).json()
    [listed] = (await service.client.get("/api/v1/tokens")).json()["tokens"]
    assert (listed["id"], listed["name"], listed["scopes"]) == (made["id"], "ci", ["read"])
    assert made["token"] not in json.dumps(listed)
    assert (await service.client.delete(f"/api/v1/tokens/{made['id']}")).status_code == 204
    assert (await service.client.delete(f"/api/v1/tokens/{made['id']}")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x\0", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["read"], "secret": "mine"},
    ],
)
async def test_wrong_token_is_refused(service: Service, body: Any) -> None:
    assert (await service.client.post("/api/v1/tokens", json=body)).status_code == 422
    assert service.rows()["token"] == 0
