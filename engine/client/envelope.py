"""Requests of the task-engine contract: paths built safely, data taken out of the envelope."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from engine.client.answers import typed
from engine.client.transport import Transport
from engine.model.json import JSON

Data = dict[str, Any]


class Envelope:
    """What the client's verbs are made of. Raises the engine's errors."""

    _transport: Transport

    def _get(self, path: str, **parameters: Any) -> Data:
        return typed(data_of(self._transport.get(path, **parameters)), Data)

    def _send_data(self, method: str, path: str, body: JSON = None, key: str | None = None) -> Data:
        return typed(data_of(self._transport.send(method, path, body, key)), Data)


def data_of(answer: JSON) -> JSON:
    """What stands in the envelope `{code, message, data}`; empty data may be left out."""
    return typed(answer, dict[str, Any]).get("data")


def segment(text: str) -> str:
    """One segment of a path. Dots alone would be taken for steps up."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if set(text) == {"."} else quoted
