"""Bindings of plug-ins over REST."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.service import Service

pytestmark = pytest.mark.anyio
PATH = "/api/v1/plugins/bindings"
HOOK: dict[str, Any] = {"plugin": "webhook", "event": "task.failed", "params": {"url": "http://h/"}}


async def test_a_binding_is_made_listed_and_taken_back(service: Service) -> None:
    made = await service.client.post(PATH, json={**HOOK, "condition": "task.attempt > 1"})
    assert made.status_code == 201
    binding = made.json()
    assert binding.pop("created_at") is not None
    assert binding == {
        "id": "webhook:task.failed",
        "plugin": "webhook",
        "event": "task.failed",
        "condition": "task.attempt > 1",
        "params": {"url": "http://h/"},
        "workflow_id": None,
        "is_enabled": True,
    }
    [listed] = (await service.client.get(PATH)).json()["bindings"]
    assert listed["id"] == binding["id"]
    assert (await service.client.delete(f"{PATH}/webhook:task.failed")).status_code == 204
    gone = await service.client.delete(f"{PATH}/webhook:task.failed")
    assert (gone.status_code, gone.json()["detail"]) == (404, "binding not found: webhook:task.failed")


async def test_a_second_one_of_its_id_replaces_it(service: Service) -> None:
    for url in ("http://a/", "http://b/"):
        answer = await service.client.post(PATH, json={**HOOK, "params": {"url": url}})
        assert answer.status_code == 201
    [listed] = (await service.client.get(PATH)).json()["bindings"]
    assert listed["params"] == {"url": "http://b/"}


async def test_pages_together_are_the_list(service: Service) -> None:
    for number in range(5):
        await service.client.post(PATH, json={**HOOK, "id": f"b{number}"})
    pages = [
        (await service.client.get(f"{PATH}?limit=2&offset={offset}")).json()["bindings"]
        for offset in (0, 2, 4, 6)
    ]
    assert [row["id"] for page in pages for row in page] == [f"b{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({**HOOK, "plugin": "webhok"}, 422, 'unknown plug-in "webhok"; did you mean "webhook"?'),
        ({**HOOK, "event": "task.exploded"}, 422, "unknown event"),
        ({**HOOK, "params": {}}, 422, "url is required"),
        ({**HOOK, "condition": "1 +"}, 422, "condition"),
        ({**HOOK, "workflow_id": "nowhere"}, 404, "workflow not found: nowhere"),
        ({**HOOK, "when": "now"}, 422, 'unknown field "when"'),
        ([], 422, "a binding is an object"),
        (None, 400, "empty body"),
    ],
)
async def test_what_cannot_be_bound_is_refused(service: Service, body: Any, status: int, detail: str) -> None:
    before = service.rows()
    answer = await service.client.post(PATH, json=body)
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
    assert service.rows() == before


async def test_it_takes_an_admin(guarded: Service) -> None:
    assert (await guarded.client.get(PATH)).status_code == 401
    headers = {"authorization": "Bearer " + "b" * 40}
    assert (await guarded.client.get(PATH, headers=headers)).json() == {"bindings": []}
