"""webhook: signed, tried again when that can help, and never beyond what the operator lets it reach."""

from __future__ import annotations

import hashlib
import hmac
import json
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from engine.executors.base import ExecutorSettings
from engine.model.outcomes import Failed, Succeeded
from engine.plugins.http import MAX_RETRY_SECONDS
from engine.plugins.registry import PluginRegistry
from tests.executors.factories import make_settings
from tests.executors.servers import Answer, HttpServer
from tests.plugins.calls import EVENT, call, fails, told

pytestmark = pytest.mark.anyio


def answering(receiver: HttpServer, status: int, **headers: str) -> dict[str, Any]:
    """Params of a webhook whose receiver always answers that."""
    receiver.routes["/hook"] = lambda request: Answer(status, b"so so", headers)
    return {"url": f"{receiver.url}/hook"}


async def test_an_event_is_posted_as_json(settings: ExecutorSettings, receiver: HttpServer) -> None:
    assert await told(settings, "webhook", answering(receiver, 202)) == {"status_code": 202}
    [request] = receiver.requests
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-task-engine-event"] == "task.failed"
    assert request.headers["x-task-engine-delivery"] == "task-77"
    assert "x-task-engine-signature" not in request.headers
    assert json.loads(request.body) == {
        "event": "task.failed",
        "workflow_id": "wf-1",
        "instance_id": "17",
        "task_id": "41",
        "task_name": "load",
        "status": "Failed",
        "error": "no route to host",
        "at": EVENT["at"],
        "delivery": "task-77",
        "data": {
            "workflow_name": "nightly",
            "version": 3,
            "total_tasks": 4,
            "completed": 2,
            "failed": 1,
            "number": 6,
            "kind": "http",
            "attempt": 2,
            "result": None,
            "error_code": "external_failure",
        },
    }


async def test_the_receiver_can_check_the_signature(settings: ExecutorSettings, receiver: HttpServer) -> None:
    await told(settings, "webhook", {**answering(receiver, 200), "secret": "geheim"})
    [request] = receiver.requests
    signed = request.headers["x-task-engine-timestamp"].encode() + b"." + request.body
    expected = hmac.new(b"geheim", signed, hashlib.sha256).hexdigest()
    assert request.headers["x-task-engine-signature"] == f"sha256={expected}"
    assert b"geheim" not in request.body


async def test_the_secret_may_stand_in_the_environment(
    settings: ExecutorSettings, receiver: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {**answering(receiver, 200), "secret_env": "ENGINE_PLUGIN_HOOK"}
    failure = await fails(settings, "webhook", params)
    assert failure.is_permanent and "no variable ENGINE_PLUGIN_HOOK" in failure.message
    monkeypatch.setenv("ENGINE_PLUGIN_HOOK", "geheim")
    await told(settings, "webhook", params)
    assert "x-task-engine-signature" in receiver.requests[0].headers


async def test_no_other_variable_of_the_environment_is_read(
    settings: ExecutorSettings, receiver: HttpServer
) -> None:
    failure = await fails(settings, "webhook", {**answering(receiver, 200), "secret_env": "HOME"})
    assert "begins with ENGINE_PLUGIN_" in failure.message
    assert receiver.accepted == 0


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_what_may_pass_is_tried_again(
    settings: ExecutorSettings, receiver: HttpServer, status: int
) -> None:
    failure = await fails(settings, "webhook", answering(receiver, status))
    assert not failure.is_permanent and failure.delay_ms is None
    assert f"answered {status}: so so" in failure.message


@pytest.mark.parametrize("status", [302, 400, 401, 404, 410])
async def test_what_will_not_pass_is_not(
    settings: ExecutorSettings, receiver: HttpServer, status: int
) -> None:
    failure = await fails(settings, "webhook", answering(receiver, status))
    assert failure.is_permanent and f"answered {status}" in failure.message


async def test_a_redirect_is_not_followed(settings: ExecutorSettings, receiver: HttpServer) -> None:
    await fails(settings, "webhook", answering(receiver, 307, Location="/hello"))
    assert [request.path for request in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("header", "delay_ms"),
    [("7", 7_000), ("0", 0), ("999999999", MAX_RETRY_SECONDS * 1_000), ("soon", None), ("-5", None)],
)
async def test_the_receiver_says_when_to_come_again(
    settings: ExecutorSettings, receiver: HttpServer, header: str, delay_ms: float | None
) -> None:
    params = answering(receiver, 503, **{"Retry-After": header})
    assert (await fails(settings, "webhook", params)).delay_ms == delay_ms


async def test_it_may_say_so_with_a_date(settings: ExecutorSettings, receiver: HttpServer) -> None:
    past = formatdate(0, usegmt=True)
    params = answering(receiver, 429, **{"Retry-After": past})
    assert (await fails(settings, "webhook", params)).delay_ms == 0


async def test_nobody_there_is_tried_again_and_the_url_is_not_told(settings: ExecutorSettings) -> None:
    failure = await fails(settings, "webhook", {"url": "http://127.0.0.1:1/secret/path"})
    assert not failure.is_permanent
    assert "127.0.0.1 was not reached" in failure.message and "secret" not in failure.message


async def test_private_addresses_can_be_closed_to_it(receiver: HttpServer, tmp_path: Path) -> None:
    closed = make_settings(tmp_path, allow_private_network=False)
    failure = await fails(closed, "webhook", answering(receiver, 200))
    assert "is not a public address" in failure.message
    assert receiver.accepted == 0


async def test_a_large_answer_is_not_read_whole(settings: ExecutorSettings, receiver: HttpServer) -> None:
    assert await told(settings, "webhook", {"url": f"{receiver.url}/endless"}) == {"status_code": 200}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "url is required"),
        ({"url": "ftp://host/"}, "not an http:// or https:// URL"),
        ({"url": "http://h", "secrets": "x"}, "unknown parameter 'secrets'; did you mean \"secret\"?"),
        ({"url": "http://h", "headers": {"A": "b\r\nEvil: 1"}}, "holds a line break"),
        ({"url": "http://h", "headers": {"A b": "c"}}, "headers"),
        ({"url": "http://h", "timeout_seconds": 0}, "timeout_seconds"),
    ],
)
async def test_params_that_can_never_work_are_refused(
    settings: ExecutorSettings, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        PluginRegistry.installed().check("webhook", params)
    assert message in str(refused.value)
    failure = await fails(settings, "webhook", params or {"method": "x"})
    assert failure.is_permanent


async def test_only_a_binding_may_name_a_secret_of_the_worker(
    settings: ExecutorSettings, receiver: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_PLUGIN_HOOK", "hush")
    params = {**answering(receiver, 200), "secret_env": "ENGINE_PLUGIN_HOOK"}
    refused = await call(settings, "webhook", params, binding=None)
    assert isinstance(refused, Failed) and refused.is_permanent
    assert refused.message.startswith("secret_env: only a binding may name a secret")
    assert receiver.requests == []
    assert isinstance(await call(settings, "webhook", params), Succeeded)
