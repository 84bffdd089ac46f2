"""Tasks on the face of the ExecGo contract."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio
import pytest

from engine.operations import runs, tasks
from tests.api.service import Service

pytestmark = pytest.mark.anyio


# --- normalisation


async def test_alias_becomes_a_tool_of_os(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop", "tool_name": "other", "params": {"message": "x"}})
    answer = (await service.client.get("/tasks/a")).json()
    assert answer["type"] == "os"
    assert answer["tool_name"] == "noop"
    assert answer["execution_category"] == "os"
    assert answer["input"] == answer["params"] == {"message": "x"}
    assert answer["status"] == "pending"
    assert not {"runtime", "run_status", "result", "error", "handle_id", "progress"} & answer.keys()


async def test_direct_os_task_reads_input_and_mirrors_it_once_it_ran(service: Service) -> None:
    task = {"id": "a", "type": "os", "tool_name": " noop ", "input": {"message": "x"}}
    await service.submit(task)
    waiting = (await service.client.get("/tasks/a")).json()
    assert waiting["tool_name"] == " noop "
    assert "params" not in waiting
    assert "execution_category" not in waiting
    async with service.working():
        done = await service.poll("/tasks/a")
    assert done["params"] == done["input"] == {"message": "x"}
    assert done["result"] == {"ok": True, "message": "x"}


async def test_with_both_params_win_for_os_and_input_for_the_others(service: Service) -> None:
    both = {"params": {"message": "params"}, "input": {"message": "input"}}
    await service.submit(
        {"id": "os", "type": "os", "tool_name": "noop", **both},
        {"id": "alias", "type": "noop", **both},
        {"id": "mcp", "type": "mcp", "tool_name": "t", **both},
    )
    async with service.working():
        results = {name: await service.poll(f"/tasks/{name}") for name in ("os", "alias", "mcp")}
    assert results["os"]["result"]["message"] == "params"
    assert results["alias"]["result"]["message"] == "params"
    assert results["mcp"]["result"]["echo"] == {"message": "input"}
    for answer in results.values():
        assert {key: answer[key] for key in both} == both


async def test_mcp_falls_back_to_params(service: Service) -> None:
    await service.submit({"id": "a", "type": "mcp", "params": {"k": 1}})
    async with service.working():
        done = await service.poll("/tasks/a")
    assert done["result"] == {"echo": {"k": 1}, "tool_name": ""}


@pytest.mark.parametrize(("tool_name", "shown"), [("nope", "nope"), ("", "os"), (None, "os"), (" ", "os")])
async def test_unknown_os_tool_fails_when_it_runs(
    service: Service, tool_name: str | None, shown: str
) -> None:
    await service.submit({"id": "a", "type": "os", "tool_name": tool_name})
    async with service.working():
        done = await service.poll("/tasks/a")
    assert done["status"] == "failed"
    assert done["error"] == f'unknown os tool "{shown}"'
    assert done["runtime"]["error"]["code"] == "external_failure"
    assert done["runtime"]["output"] is None
    assert "result" not in done


async def test_what_was_sent_is_given_back(service: Service) -> None:
    sent = {
        "id": "b",
        "type": "noop",
        "params": None,
        "depends_on": ["a", "a"],
        "retry": -3,
        "timeout": -1,
        "annotations": {"k": "v"},
    }
    response = await service.submit({"id": "a", "type": "noop"}, sent)
    assert response.status_code == 202
    answer = (await service.client.get("/tasks/b")).json()
    kept = {key: answer[key] for key in ("depends_on", "retry", "timeout", "annotations", "params")}
    assert kept == {key: sent[key] for key in kept}
    bare = (await service.client.get("/tasks/a")).json()
    assert not {"depends_on", "retry", "timeout", "annotations", "params", "input"} & bare.keys()


# --- ends


async def test_a_failing_command_keeps_its_output(service: Service) -> None:
    await service.submit({"id": "a", "type": "shell", "params": {"script": "echo out; exit 3"}, "retry": 1})
    async with service.working():
        done = await service.poll("/tasks/a")
    assert done["status"] == done["run_status"] == done["runtime"]["status"] == "failed"
    assert done["result"] == done["runtime"]["output"]
    assert done["result"]["exit_code"] == 3
    assert done["runtime"]["attempt"] == 2
    assert done["error"] == done["runtime"]["error"]["message"]


async def test_between_two_attempts_a_task_is_running(service: Service) -> None:
    await service.submit({"id": "a", "type": "shell", "params": {"command": "nope"}, "retry": 12})
    async with service.working():
        with anyio.fail_after(20):
            task = await tasks.get_aliased(service.database, "execgo", "a")
            while task.failures < 2 or task.state == "running":
                await anyio.sleep(0.01)
                task = await tasks.get_aliased(service.database, "execgo", "a")
    answer = (await service.client.get("/tasks/a")).json()
    assert answer["status"] == answer["run_status"] == "running"
    assert answer["runtime"].keys() == {"status", "started_at"}
    assert [t["id"] for t in (await service.client.get("/tasks?status=running")).json()] == ["a"]
    assert (await service.client.get("/tasks?status=pending")).json() == []


async def test_cancelled_task_is_shown_as_failed(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop"}, {"id": "b", "type": "noop", "depends_on": ["a"]})
    task = await tasks.get_aliased(service.database, "execgo", "a")
    await runs.cancel(service.database, task.run_id)
    answer = (await service.client.get("/tasks/a")).json()
    assert (answer["status"], answer["run_status"], answer["error"]) == (
        "failed",
        "cancelled",
        "context canceled",
    )
    assert answer["runtime"]["status"] == "cancelled"
    assert answer["runtime"]["error"] == {
        "code": "cancelled",
        "message": "context canceled",
        "source": "scheduler",
    }


async def test_mcp_task_of_a_graph_has_a_handle_and_progress(service: Service) -> None:
    await service.submit({"id": "a", "type": "mcp", "tool_name": "t", "input": {"k": 1}})
    async with service.working():
        done = await service.poll("/tasks/a")
    assert done["handle_id"] == done["runtime"]["handle_id"]
    assert [step["message"] for step in done["progress"]] == [
        "task accepted",
        "task started",
        "task completed",
    ]
    record = (await service.client.get(f"/mcp/tasks/{done['handle_id']}")).json()
    assert (record["task_id"], record["status"], record["output"]) == ("a", "success", done["result"])


# --- resubmit and delete


async def test_resubmitting_an_id_moves_it_to_the_new_task(service: Service) -> None:
    async with service.working():
        await service.submit({"id": "a", "type": "noop", "params": {"message": "old"}})
        await service.poll("/tasks/a")
    await service.submit({"id": "a", "type": "noop", "params": {"message": "new"}})
    answer = (await service.client.get("/tasks/a")).json()
    assert (answer["status"], answer["params"]) == ("pending", {"message": "new"})
    assert len((await service.client.get("/tasks")).json()) == 1
    assert service.rows()["run"] == 2


async def test_deleted_task_does_not_start_and_its_dependents_are_skipped(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop"}, {"id": "b", "type": "noop", "depends_on": ["a"]})
    assert (await service.client.delete("/tasks/a")).status_code == 204
    async with service.working():
        below = await service.poll("/tasks/b")
    assert below["status"] == "skipped"
    assert (await service.client.get("/tasks/a")).status_code == 404


async def test_deleted_running_task_finishes_unseen(service: Service) -> None:
    async with service.working():
        await service.submit(
            {"id": "a", "type": "sleep", "params": {"duration_ms": 300}},
            {"id": "b", "type": "noop", "depends_on": ["a"]},
        )
        await service.poll("/tasks/a", {"running"})
        assert (await service.client.delete("/tasks/a")).status_code == 204
        assert (await service.poll("/tasks/b"))["status"] == "success"
        assert (await service.client.get("/tasks/a")).status_code == 404


# --- ids in paths


@pytest.mark.parametrize(
    "name",
    ["a/b", "a b", "ä€😀", "100%", "a%2Fb", "%252F", "..", ".", "a?b#c", "a;b", "-rf", "'\"<>", "null"],
)
async def test_id_is_found_when_percent_encoded(service: Service, name: str) -> None:
    assert (await service.submit({"id": name, "type": "noop"})).json()["task_ids"] == [name]
    path = f"/tasks/{quote(name, safe='')}"
    if name in (".", ".."):  # clients resolve these before they send
        path = f"/tasks/{name.replace('.', '%2E')}"
    assert (await service.client.get(path)).json()["id"] == name
    assert (await service.client.delete(path)).status_code == 204


# --- the list


async def test_list_without_a_limit_gives_every_task(service: Service) -> None:
    names = [f"t{number}" for number in range(1203)]
    assert (await service.submit(*[{"id": name, "type": "noop"} for name in names])).status_code == 202
    listed = (await service.client.get("/tasks")).json()
    assert [task["id"] for task in listed] == names
    assert [t["id"] for t in (await service.client.get("/tasks?limit=1100&offset=50")).json()] == names[
        50:1150
    ]
    assert [t["id"] for t in (await service.client.get("/tasks?limit=500")).json()] == names[:500]
    assert [t["id"] for t in (await service.client.get("/tasks?limit=1000")).json()] == names[:1000]
    assert [t["id"] for t in (await service.client.get("/tasks?limit=3&offset=1202")).json()] == names[1202:]


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000])
async def test_list_is_whole_at_the_borders_of_a_page(service: Service, count: int) -> None:
    if count:
        await service.submit(*[{"id": f"t{number}", "type": "noop"} for number in range(count)])
    assert len((await service.client.get("/tasks")).json()) == count


async def test_list_can_be_filtered(service: Service) -> None:
    async with service.working():
        await service.submit(
            {"id": "ok", "type": "noop"},
            {"id": "bad", "type": "shell", "params": {"command": "nope"}},
            {"id": "below", "type": "noop", "depends_on": ["bad"]},
            {"id": "call", "type": "mcp"},
        )
        for name in ("ok", "below", "call"):
            await service.poll(f"/tasks/{name}")
    await service.submit({"id": "later", "type": "noop"})
    expected: dict[str, list[str]] = {
        "status=success": ["ok", "call"],
        "status=failed": ["bad"],
        "status=skipped": ["below"],
        "status=pending": ["later"],
        "status=running": [],
        "type=mcp": ["call"],
        "type=os": ["ok", "bad", "below", "later"],
        "type=os&status=success": ["ok"],
        "type=nothing": [],
    }
    found = {
        query: [task["id"] for task in (await service.client.get(f"/tasks?{query}")).json()]
        for query in expected
    }
    assert found == expected
    run_id = (await tasks.get_aliased(service.database, "execgo", "later")).run_id
    assert [t["id"] for t in (await service.client.get(f"/tasks?run_id={run_id}")).json()] == ["later"]


@pytest.mark.parametrize("path", ["/tasks", "/tasks/a", "/health", "/metrics", "/mcp/tools", "/api/v1/runs"])
async def test_head_answers_as_get_without_a_body(service: Service, path: str) -> None:
    await service.submit({"id": "a", "type": "noop"})
    response = await service.client.head(path)
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["content-type"] == "application/json"


async def test_wrong_method_names_the_right_ones(service: Service) -> None:
    for path, allowed in (
        ("/tasks", {"GET", "POST"}),
        ("/tasks/a", {"GET", "DELETE"}),
        ("/mcp/call", {"POST"}),
    ):
        response = await service.client.put(path)
        assert response.status_code == 405
        assert allowed <= set(response.headers["allow"].split(", "))
        assert response.json().keys() == {"error"}
        assert response.headers["x-trace-id"]


# --- idempotency


async def test_same_key_and_body_is_one_run(service: Service) -> None:
    first = await service.submit({"id": "a", "type": "noop"}, **{"idempotency-key": "k1"})
    again = await service.client.post(
        "/tasks", content=b'{"tasks": [ {"type":"noop", "id":"a"} ]}', headers={"idempotency-key": "k1"}
    )
    assert (
        (first.status_code, first.json())
        == (again.status_code, again.json())
        == (
            202,
            {"accepted": 1, "task_ids": ["a"]},
        )
    )
    assert service.rows()["run"] == 1


async def test_key_with_another_body_is_refused(service: Service) -> None:
    await service.submit({"id": "a", "type": "noop"}, **{"idempotency-key": "k1"})
    response = await service.submit({"id": "b", "type": "noop"}, **{"idempotency-key": "k1"})
    assert response.status_code == 422
    assert response.json().keys() == {"error"}
    assert service.rows()["run"] == 1


async def test_key_is_bound_to_its_route(service: Service) -> None:
    key = {"idempotency-key": "k1"}
    await service.submit({"id": "a", "type": "noop"}, **key)
    body = {"tasks": [{"name": "a", "kind": "noop"}]}
    assert (await service.client.post("/api/v1/runs", json=body, headers=key)).status_code == 202
    assert service.rows()["run"] == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "ä"])
async def test_bad_key_is_refused(service: Service, key: str) -> None:
    headers: Any = {"idempotency-key": key.encode()}
    response = await service.client.post(
        "/tasks", json={"tasks": [{"id": "a", "type": "noop"}]}, headers=headers
    )
    assert response.status_code == 400
    assert service.rows()["run"] == 0


async def test_many_requests_at_once_with_one_key_are_one_run(service: Service) -> None:
    answers = []

    async def submit() -> None:
        answers.append(await service.submit({"id": "a", "type": "noop"}, **{"idempotency-key": "k1"}))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(submit)
    assert {answer.status_code for answer in answers} == {202}
    assert service.rows()["run"] == 1


# --- cancel, an extension


async def test_a_cancelled_task_does_not_start_and_a_finished_one_cannot_be_cancelled(
    service: Service,
) -> None:
    await service.submit(
        {"id": "a", "type": "noop"},
        {"id": "b", "type": "noop", "depends_on": ["a"]},
        {"id": "c", "type": "noop"},
    )
    answer = await service.client.post("/tasks/a/cancel")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["error"]) == ("failed", "context canceled")
    async with service.working():
        assert (await service.poll("/tasks/b"))["status"] == "skipped"
        assert (await service.poll("/tasks/c"))["status"] == "success"
    assert (await service.client.post("/tasks/a/cancel")).status_code == 200
    assert (await service.client.post("/tasks/c/cancel")).status_code == 409
    assert (await service.client.post("/tasks/nobody/cancel")).json() == {"error": "task not found: nobody"}
