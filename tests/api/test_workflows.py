"""The task-engine contract: workflows and instances in their envelope."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.api.workflows.translation import duration_text
from engine.model.outcomes import Failed, Succeeded
from engine.operations import runs, tasks
from tests.api.service import Service
from tests.factories import request, session_async

pytestmark = pytest.mark.anyio

ORDERS = """
workflows:
  definitions:
    - workflow_id: orders
      description: nightly order run
      params: {region: eu}
      tasks:
        - {task_id: load, kind: noop, params: {message: "${region}"}, timeout: 45s}
        - {task_id: price, kind: noop, dependencies: [load], retry_count: 2}
        - {task_id: book, kind: noop, dependencies: [price]}
"""


async def data(answer: Any, status: int = 200) -> Any:
    body = answer.json()
    assert (answer.status_code, body["code"], body["message"]) == (status, 0, "success"), body
    return body["data"]


def refused(answer: Any, status: int) -> str:
    """The message; the envelope repeats the status and has no data."""
    body = answer.json()
    assert answer.status_code == status == body["code"], body
    assert body.keys() == {"code", "message"}
    message: str = body["message"]
    return message


async def upload(service: Service, text: str = ORDERS) -> dict[str, Any]:
    found: dict[str, Any] = await data(await service.client.post("/api/v1/workflows", json={"content": text}))
    return found


async def execute(service: Service, workflow: str = "orders", **body: Any) -> str:
    answer = await service.client.post(f"/api/v1/workflows/{workflow}/execute", json=body)
    instance_id: str = (await data(answer))["instance_id"]
    return instance_id


async def work(service: Service, *failing: str) -> None:
    """Run whatever can run; the named tasks fail."""
    worker = await session_async(service.database)
    while leases := await tasks.claim(service.database, request(worker), actor="worker"):
        ended = [(lease, Failed("no") if lease.name in failing else Succeeded({"ok": 1})) for lease in leases]
        await tasks.finish(service.database, ended, actor="worker")


async def test_a_workflow_is_not_named_like_an_id(service: Service) -> None:
    first = await upload(service)
    text = ORDERS.replace("workflow_id: orders", f"workflow_id: {first['id']}")
    answer = await service.client.post("/api/v1/workflows", json={"content": text})
    assert refused(answer, 400).startswith(f'"{first["id"]}" is an id of a workflow, not a name')
    assert service.rows()["workflow"] == 1
    await upload(service, ORDERS.replace("workflow_id: orders", "workflow_id: wf-orders"))


async def test_an_upload_is_answered_with_the_summary(service: Service) -> None:
    found = await upload(service)
    assert found["id"].startswith("wf-")
    assert (found["name"], found["description"], found["task_count"]) == ("orders", "nightly order run", 3)
    assert (found["status"], found["version"]) == ("ENABLED", 1)
    assert [item["name"] for item in found["workflows"]] == ["orders"]


async def test_yaml_may_be_the_body_itself(service: Service) -> None:
    answer = await service.client.post(
        "/api/v1/workflows", content=ORDERS, headers={"content-type": "application/yaml; charset=utf-8"}
    )
    assert (await data(answer))["name"] == "orders"


async def test_the_same_name_is_a_new_version_under_the_same_id(service: Service) -> None:
    first, second = await upload(service), await upload(service)
    assert (second["id"], second["version"]) == (first["id"], 2)
    listed = await data(await service.client.get("/api/v1/workflows"))
    assert (listed["total"], listed["has_more"]) == (1, False)
    assert listed["items"][0]["version"] == 2


async def test_all_definitions_of_a_document_are_saved_or_none(service: Service) -> None:
    two = ORDERS + "    - workflow_id: other\n      tasks: [{task_id: a, kind: noop}]\n"
    assert [item["name"] for item in (await upload(service, two))["workflows"]] == ["orders", "other"]
    wrong = two.replace("dependencies: [price]", "dependencies: [prise]").replace("orders", "more")
    message = refused(await service.client.post("/api/v1/workflows", json={"content": wrong}), 400)
    assert "definitions[0].tasks[2].dependencies" in message and "price" in message
    assert (await data(await service.client.get("/api/v1/workflows")))["total"] == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("workflows: [", "line 1"),
        ("- 1", "workflows"),
        (ORDERS.replace("kind: noop, dependencies", "kind: nope, dependencies"), "nope"),
        (ORDERS.replace("task_id: price", "task_id: load"), "load"),
        (ORDERS.replace("dependencies: [load]", "dependencies: [book]"), "cycle"),
        (ORDERS.replace("params: {region: eu}", "cron: 61 * * * *"), "61"),
        (ORDERS.replace("kind: noop, params", "func_key: nobody, params"), "nobody"),
        (ORDERS.replace("timeout: 45s", "condition: tasks.nowhere.result > 1"), "nowhere"),
        (ORDERS.replace("timeout: 45s", "condition: 1 +"), "condition"),
    ],
)
async def test_what_is_wrong_is_said_and_nothing_is_saved(service: Service, text: str, part: str) -> None:
    answer = await service.client.post("/api/v1/workflows", json={"content": text})
    assert part in refused(answer, 400)
    assert (await data(await service.client.get("/api/v1/workflows")))["total"] == 0


async def test_a_body_that_is_no_json_is_400(service: Service) -> None:
    for body in (b"{", b"", b'{"content": 5}', b"{}"):
        refused(await service.client.post("/api/v1/workflows", content=body), 400)


async def test_detail_has_tasks_and_dependencies_by_name(service: Service) -> None:
    found = await upload(service)
    for key in (found["id"], "orders"):
        detail = await data(await service.client.get(f"/api/v1/workflows/{key}"))
        assert detail["tasks"][0] == {"id": "load", "name": "load", "description": "", "timeout": 45.0}
        assert detail["tasks"][1]["retry_count"] == 2
        assert detail["dependencies"] == {"price": ["load"], "book": ["price"]}
    assert refused(await service.client.get("/api/v1/workflows/none"), 404) == "workflow not found: none"


async def test_an_instance_runs_to_its_end(service: Service) -> None:
    found = await upload(service)
    instance = await execute(service, params={"region": "us"})
    started = await data(await service.client.get(f"/api/v1/instances/{instance}"))
    assert (started["status"], started["workflow_id"]) == ("Ready", found["id"])
    assert started["progress"] | {"pending_task_ids": []} == {
        "total": 3,
        "completed": 0,
        "running": 0,
        "failed": 0,
        "pending": 3,
        "running_task_ids": [],
        "pending_task_ids": [],
    }
    await work(service)
    done = await data(await service.client.get(f"/api/v1/instances/{instance}"))
    assert (done["status"], done["progress"]["completed"], done["params"]) == ("Success", 3, {"region": "us"})
    assert done["finished_at"] >= done["started_at"] and done["duration"].endswith("s")
    listed = await data(await service.client.get(f"/api/v1/instances/{instance}/tasks"))
    assert [(task["task_name"], task["status"]) for task in listed] == [
        ("load", "Success"),
        ("price", "Success"),
        ("book", "Success"),
    ]


async def test_what_could_not_run_has_failed_and_names_its_dependency(service: Service) -> None:
    await upload(service)
    instance = await execute(service)
    await work(service, "load")
    done = await data(await service.client.get(f"/api/v1/instances/{instance}"))
    assert (done["status"], done["error_message"]) == ("Failed", "no")
    assert (done["progress"]["failed"], done["progress"]["pending"]) == (3, 0)
    listed = await data(await service.client.get(f"/api/v1/instances/{instance}/tasks"))
    assert [(task["status"], task["state"], task["error_message"]) for task in listed] == [
        ("Failed", "failed", "no"),
        ("Failed", "skipped", "dependency load failed"),
        ("Failed", "skipped", "dependency price skipped"),
    ]


async def test_a_run_keeps_the_version_that_it_started_with(service: Service) -> None:
    await upload(service)
    instance = await execute(service)
    await upload(service)
    assert (await data(await service.client.get(f"/api/v1/instances/{instance}")))["version"] == 1
    assert (await data(await service.client.get("/api/v1/workflows/orders?version=1")))["version"] == 1


async def test_history_filters_and_pages(service: Service) -> None:
    await upload(service)
    ids = [await execute(service) for _ in range(5)]
    await runs.cancel(service.database, int(ids[0]))
    await runs.hold(service.database, int(ids[1]))
    await work(service, "book")

    async def history(query: str = "") -> Any:
        return await data(await service.client.get(f"/api/v1/workflows/orders/history{query}"))

    everything = await history()
    assert [item["id"] for item in everything["items"]] == ids[::-1]
    assert (everything["total"], everything["has_more"]) == (5, False)
    assert [item["id"] for item in (await history("?order=asc&limit=2"))["items"]] == ids[:2]
    page = await history("?limit=2&offset=2")
    assert ([item["id"] for item in page["items"]], page["has_more"]) == ([ids[2], ids[1]], True)
    assert (await history("?status=Failed"))["total"] == 3
    assert [item["id"] for item in (await history("?status=Paused"))["items"]] == [ids[1]]
    assert [item["id"] for item in (await history("?status=Terminated"))["items"]] == [ids[0]]
    assert (await history("?offset=99"))["items"] == []
    for wrong in ("?limit=101", "?offset=-1", "?order=up", "?status=failed"):
        refused(await service.client.get(f"/api/v1/workflows/orders/history{wrong}"), 400)
    refused(await service.client.get("/api/v1/workflows/none/history"), 404)


async def test_instances_are_listed_across_workflows(service: Service) -> None:
    await upload(service)
    await upload(service, ORDERS.replace("workflow_id: orders", "workflow_id: other"))
    ids = [await execute(service), await execute(service, "other")]
    await service.client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})
    listed = await data(await service.client.get("/api/v1/instances"))
    assert [item["id"] for item in listed["items"]] == ids[::-1]
    assert {item["workflow_name"] for item in listed["items"]} == {"orders", "other"}


async def test_pause_resume_and_cancel(service: Service) -> None:
    await upload(service)
    instance = await execute(service)

    async def control(verb: str) -> Any:
        return await service.client.post(f"/api/v1/instances/{instance}/{verb}")

    assert (await data(await control("pause")))["id"] == instance
    assert (await data(await service.client.get(f"/api/v1/instances/{instance}")))["status"] == "Paused"
    await work(service)
    assert (await data(await service.client.get(f"/api/v1/instances/{instance}")))["progress"][
        "completed"
    ] == 0
    await data(await control("resume"))
    await data(await control("cancel"))
    assert (await data(await service.client.get(f"/api/v1/instances/{instance}")))["status"] == "Terminated"
    assert "only a Ready or Running instance can be paused" in refused(await control("pause"), 409)
    refused(await service.client.post("/api/v1/instances/99/cancel"), 404)
    refused(await service.client.get("/api/v1/instances/99/tasks"), 404)
    refused(await service.client.get("/api/v1/instances/inst-x"), 404)


async def test_what_did_not_succeed_runs_again_and_results_are_kept(service: Service) -> None:
    await upload(service)
    instance = await execute(service)
    await work(service, "book")
    await data(await service.client.post(f"/api/v1/instances/{instance}/retry"))
    await work(service)
    done = await data(await service.client.get(f"/api/v1/instances/{instance}"))
    assert (done["status"], done["progress"]["completed"]) == ("Success", 3)
    load = (await runs.tasks(service.database, int(instance)))[0]
    assert load.attempt == 1


async def test_a_rerun_knows_the_run_before_it_and_may_change_parameters(service: Service) -> None:
    await upload(service, ORDERS.replace("params: {region: eu}", "params: {region: eu, day: 0}"))
    first = await execute(service, params={"region": "us", "day": 1})
    answer = await service.client.post(f"/api/v1/instances/{first}/rerun", json={"params": {"day": 2}})
    second = (await data(answer))["instance_id"]
    assert (await data(await service.client.get(f"/api/v1/instances/{second}")))["params"] == {
        "region": "us",
        "day": 2,
    }


async def test_execute_refuses_what_does_not_fit_and_starts_nothing(service: Service) -> None:
    await upload(
        service, ORDERS.replace("params: {region: eu}", "params: {region: {type: string, required: true}}")
    )

    async def attempt(**body: Any) -> str:
        answer = await service.client.post("/api/v1/workflows/orders/execute", json=body)
        return refused(answer, 400)

    assert "missing parameters: region" in await attempt()
    assert "expected string, got" in await attempt(params={"region": 5})
    assert 'did you mean "region"?' in await attempt(params={"region": "us", "regoin": "us"})
    refused(await service.client.post("/api/v1/workflows/none/execute"), 404)
    refused(await service.client.post("/api/v1/workflows/orders/execute", content=b"["), 400)
    assert (await data(await service.client.get("/api/v1/instances")))["total"] == 0


async def test_an_execution_with_a_key_can_be_repeated(service: Service) -> None:
    await upload(service)
    headers = {"idempotency-key": "k1"}

    async def once(**body: Any) -> Any:
        return await service.client.post("/api/v1/workflows/orders/execute", json=body, headers=headers)

    first, again = (await data(await once()))["instance_id"], (await data(await once()))["instance_id"]
    assert first == again
    assert (await data(await service.client.get("/api/v1/instances")))["total"] == 1
    refused(await once(params={"region": "us"}), 422)


async def test_a_workflow_is_deleted_when_nothing_runs(service: Service) -> None:
    found = await upload(service)
    instance = await execute(service)
    assert "unfinished" in refused(await service.client.delete(f"/api/v1/workflows/{found['id']}"), 409)
    await work(service)
    assert (await data(await service.client.delete(f"/api/v1/workflows/{found['id']}")))["id"] == found["id"]
    refused(await service.client.delete(f"/api/v1/workflows/{found['id']}"), 404)
    assert (await data(await service.client.get(f"/api/v1/instances/{instance}")))["status"] == "Success"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (1.24, "1.2s"), (59.94, "59.9s"), (59.96, "1m0s"), (150, "2m30s"), (3900, "1h5m")],
)
async def test_durations_read_as_the_contract_says(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text
