"""Versions of workflows, their definitions, and workflows that are switched off."""

from __future__ import annotations

from typing import Any

import pytest

from engine.definitions import from_yaml
from engine.model.workflows import Workflow
from engine.operations import schedules, workflows
from tests.api.service import Service
from tests.api.test_workflows import ORDERS, data, execute, refused, upload

pytestmark = pytest.mark.anyio

NIGHTLY = ORDERS.replace("params: {region: eu}", 'cron: "0 30 1 * * *"\n      params: {region: eu}')


async def three_versions(service: Service) -> str:
    """The id of a workflow whose description changed twice."""
    for word in ("nightly", "daily", "hourly"):
        saved = await upload(service, ORDERS.replace("nightly", word))
    workflow_id: str = saved["id"]
    return workflow_id


async def listed(service: Service, key: str, query: str = "") -> Any:
    return await data(await service.client.get(f"/api/v1/workflows/{key}/versions{query}"))


async def test_versions_are_listed_newest_first_and_by_page(service: Service) -> None:
    workflow_id = await three_versions(service)
    for key in (workflow_id, "orders"):
        found = await listed(service, key)
        assert (found["total"], found["has_more"]) == (3, False)
        assert [item["version"] for item in found["items"]] == [3, 2, 1]
        assert [item["description"] for item in found["items"]] == [
            "hourly order run",
            "daily order run",
            "nightly order run",
        ]
    page = await listed(service, workflow_id, "?limit=1&offset=1")
    assert ([item["version"] for item in page["items"]], page["has_more"]) == ([2], True)
    assert (await listed(service, workflow_id, "?offset=9"))["items"] == []
    for wrong in ("?limit=101", "?offset=-1", "?limit=x"):
        refused(await service.client.get(f"/api/v1/workflows/orders/versions{wrong}"), 400)
    refused(await service.client.get("/api/v1/workflows/none/versions"), 404)


async def test_a_summary_has_the_times_of_the_workflow_and_of_the_version(service: Service) -> None:
    workflow_id = await three_versions(service)
    newest, _, oldest = (await listed(service, workflow_id))["items"]
    assert newest["created_at"] == oldest["created_at"] == oldest["changed_at"] <= newest["changed_at"]
    detail = await data(await service.client.get(f"/api/v1/workflows/{workflow_id}"))
    assert detail["changed_at"] == newest["changed_at"]


async def test_a_version_has_its_definition(service: Service) -> None:
    workflow_id = await three_versions(service)
    found = await data(await service.client.get(f"/api/v1/workflows/{workflow_id}/versions/2"))
    assert (found["version"], found["description"]) == (2, "daily order run")
    stored = await workflows.get(service.database, workflow_id, 2)
    assert found["definition"] == stored.definition
    assert Workflow.from_json(found["definition"]).tasks[1].retry_count == 2


@pytest.mark.parametrize("version", ["4", "0", "-1", "x", "1.0", "9" * 30])
async def test_a_version_that_is_not_there_is_not_found(service: Service, version: str) -> None:
    await three_versions(service)
    answer = await service.client.get(f"/api/v1/workflows/orders/versions/{version}")
    assert refused(answer, 404).startswith("workflow not found: orders version ")


async def test_a_definition_can_be_downloaded_and_uploaded_again(service: Service) -> None:
    workflow_id = await three_versions(service)
    stored = await workflows.get(service.database, workflow_id, 1)
    for path in ("definition?version=1", "versions/1?format=yaml"):
        answer = await service.client.get(f"/api/v1/workflows/{workflow_id}/{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/yaml")
        assert answer.headers["content-disposition"] == f'attachment; filename="{workflow_id}-1.yaml"'
        assert from_yaml(answer.text).to_json() == stored.definition
    again = await service.client.post(
        "/api/v1/workflows", content=answer.content, headers={"content-type": "application/yaml"}
    )
    assert (await data(again))["version"] == 4
    assert (await workflows.get(service.database, workflow_id)).definition == stored.definition


async def test_without_a_version_the_newest_definition_is_downloaded(service: Service) -> None:
    await three_versions(service)
    answer = await service.client.get("/api/v1/workflows/orders/definition")
    assert from_yaml(answer.text).description == "hourly order run"
    refused(await service.client.get("/api/v1/workflows/none/definition"), 404)
    refused(await service.client.get("/api/v1/workflows/orders/definition?version=0"), 400)
    refused(await service.client.get("/api/v1/workflows/orders/versions/1?format=xml"), 400)


async def test_a_disabled_workflow_starts_nothing_until_it_is_enabled(service: Service) -> None:
    saved = await upload(service, NIGHTLY)

    async def switch(verb: str) -> Any:
        return await data(await service.client.post(f"/api/v1/workflows/orders/{verb}"))

    assert await switch("disable") == {"message": "workflow disabled", "id": saved["id"]}
    detail = await data(await service.client.get("/api/v1/workflows/orders"))
    assert (detail["status"], detail["cron_enabled"]) == ("DISABLED", False)
    message = refused(await service.client.post("/api/v1/workflows/orders/execute"), 409)
    assert message == "workflow 'orders' is disabled; enable it before executing it"
    assert (await data(await service.client.get("/api/v1/instances")))["total"] == 0
    assert await switch("enable") == {"message": "workflow enabled", "id": saved["id"]}
    assert (await data(await service.client.get("/api/v1/workflows/orders")))["status"] == "ENABLED"
    await execute(service)


async def test_the_schedule_of_a_disabled_workflow_says_why_it_starts_nothing(service: Service) -> None:
    await upload(service, NIGHTLY)
    await service.client.post("/api/v1/workflows/orders/disable")
    found = await schedules.get(service.database, "orders")
    await service.database.run(lambda tx: schedules.store.set_(tx, found.id, next_at=schedules.store.now(tx)))
    assert (await schedules.tick(service.database)).started == 0
    shown = await data(await service.client.get("/api/v1/schedules/orders"))
    assert shown["error"] == "workflow 'orders' is disabled; enable it before executing it"


async def test_switching_a_workflow_that_is_not_there_is_not_found(service: Service) -> None:
    for verb in ("enable", "disable"):
        refused(await service.client.post(f"/api/v1/workflows/none/{verb}"), 404)
