"""sms_alert: a short text by the HTTP interface of a gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.executors.base import ExecutorSettings
from tests.executors.servers import Answer, HttpServer
from tests.plugins.calls import fails, told

pytestmark = pytest.mark.anyio


def gateway(receiver: HttpServer, status: int = 200, **more: Any) -> dict[str, Any]:
    receiver.routes["/sms"] = lambda request: Answer(status)
    return {"url": f"{receiver.url}/sms", "recipients": "+49170111, +49170222", **more}


async def test_a_text_is_sent_to_all(settings: ExecutorSettings, receiver: HttpServer) -> None:
    await told(settings, "sms_alert", gateway(receiver, api_key="k", api_secret="s", token="Bearer t"))
    [request] = receiver.requests
    assert json.loads(request.body) == {
        "recipients": ["+49170111", "+49170222"],
        "message": "task.failed: nightly 17 load no route to host",
        "id": "task-77",
    }
    sent = {name: request.headers[name] for name in ("x-api-key", "x-api-secret", "authorization")}
    assert sent == {"x-api-key": "k", "x-api-secret": "s", "authorization": "Bearer t"}
    assert request.headers["idempotency-key"] == "task-77"


async def test_a_long_text_is_cut(settings: ExecutorSettings, receiver: HttpServer) -> None:
    error = {"code": "", "message": "line\n" * 100}
    result = await told(settings, "sms_alert", gateway(receiver, max_characters=70), error=error)
    assert len(result["message"]) == 70
    assert result["message"].endswith("…") and "\n" not in result["message"]


async def test_answers_are_judged_as_those_of_a_webhook(
    settings: ExecutorSettings, receiver: HttpServer
) -> None:
    assert not (await fails(settings, "sms_alert", gateway(receiver, 503))).is_permanent
    assert (await fails(settings, "sms_alert", gateway(receiver, 403))).is_permanent
