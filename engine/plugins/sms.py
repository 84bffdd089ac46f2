"""`sms_alert`: a short text to people, by the HTTP interface of an SMS gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from engine.model.json import JSON
from engine.plugins.base import PluginData
from engine.plugins.http import HeaderName, check_header, check_url, send
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.options import Options, Texts, filled, read, secret, template

_TEXT = "${event}: ${workflow_name} ${instance_id} ${task_name} ${error}"


class SmsOptions(Options):
    """`api_key` and `api_secret` are sent as headers, as is `token` in `token_header`."""

    url: Annotated[str, AfterValidator(check_url)]
    method: Literal["POST", "PUT"] = "POST"
    api_key: Annotated[str, AfterValidator(check_header)] | None = None
    api_secret: str | None = None
    api_secret_env: str | None = None
    token: str | None = None
    token_env: str | None = None
    token_header: HeaderName = "Authorization"  # noqa: S105 - a name
    recipients: Texts = Field(default_factory=list)
    text: Annotated[str, AfterValidator(template)] = _TEXT
    max_characters: int = Field(160, ge=1, le=10_000)
    timeout_seconds: float = Field(10.0, gt=0, le=50)


class SmsPlugin:
    """Sends `{"recipients": […], "message": text, "id": delivery}`; judges answers as `webhook` does."""

    name = "sms_alert"

    def __init__(self, network: Network | None = None) -> None:
        self._network = network or OpenNetwork()
        self._options: SmsOptions | None = None
        self._headers: dict[str, str] = {}

    def check(self, params: Mapping[str, JSON]) -> None:
        read(SmsOptions, params)

    def init(self, params: Mapping[str, JSON]) -> None:
        options = read(SmsOptions, params)
        given = {
            "X-Api-Key": options.api_key,
            "X-Api-Secret": secret(options.api_secret, options.api_secret_env),
            options.token_header: secret(options.token, options.token_env),
        }
        self._headers = {name: check_header(value) for name, value in given.items() if value is not None}
        self._options = options

    async def execute(self, data: PluginData) -> dict[str, Any]:
        options = self._options
        if options is None:
            raise ValueError("url is required")
        text = shortened(filled(options.text, data), options.max_characters)
        message = {"recipients": options.recipients, "message": text, "id": data.delivery}
        status = await send(
            self._network,
            options.url,
            method=options.method,
            headers={
                **self._headers,
                "Content-Type": "application/json",
                "Idempotency-Key": data.delivery,
            },
            body=json.dumps(message, ensure_ascii=False).encode(),
            seconds=options.timeout_seconds,
        )
        return {"status_code": status, "message": text}


def shortened(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
