"""`webhook`: tells a URL of events, signed, as JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from engine.model.json import JSON
from engine.plugins.base import PluginData
from engine.plugins.http import HeaderName, check_header, check_url, send
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.options import Options, read, secret

EVENT, DELIVERY, TIMESTAMP, SIGNATURE = (
    f"X-Task-Engine-{name}" for name in ("Event", "Delivery", "Timestamp", "Signature")
)


class WebhookOptions(Options):
    url: Annotated[str, AfterValidator(check_url)]
    secret: str | None = Field(None, description="signs what is sent")
    secret_env: str | None = Field(None, description="the worker's environment variable that has the secret")
    headers: dict[HeaderName, Annotated[str, AfterValidator(check_header)]] = Field(default_factory=dict)
    timeout_seconds: float = Field(10.0, gt=0, le=50)


class WebhookPlugin:
    """POSTs the event. 2xx means told; 408, 425, 429, 5xx and a receiver that is not reached are tried again,
    not before `Retry-After`; any other answer is a failure for good."""

    name = "webhook"

    def __init__(self, network: Network | None = None) -> None:
        self._network = network or OpenNetwork()
        self._options: WebhookOptions | None = None
        self._secret: str | None = None

    def check(self, params: Mapping[str, JSON]) -> None:
        read(WebhookOptions, params)

    def init(self, params: Mapping[str, JSON]) -> None:
        self._options = read(WebhookOptions, params)
        self._secret = secret(self._options.secret, self._options.secret_env)

    async def execute(self, data: PluginData) -> dict[str, Any]:
        options = self._options
        if options is None:
            raise ValueError("url is required")
        body = json.dumps(data.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            **options.headers,
            EVENT: str(data.event),
            DELIVERY: data.delivery,
            TIMESTAMP: timestamp,
        }
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, timestamp, body)
        status = await send(
            self._network,
            options.url,
            method="POST",
            headers=headers,
            body=body,
            seconds=options.timeout_seconds,
        )
        return {"status_code": status}


def signature(key: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp, dot and body: an old message cannot be passed off as a new one."""
    signed = timestamp.encode() + b"." + body
    return f"sha256={hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()}"
