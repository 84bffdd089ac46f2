"""The client's verbs of signals and sagas, as the data objects of the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.client.answers import field_of, typed
from engine.client.envelope import Data, segment
from engine.client.transport import Transport
from engine.model.json import JSON


class Continuations:
    """Raises the engine's errors: `NotFound`, `Conflict`, `InvalidInput` …"""

    _transport: Transport

    def signal(self, run_id: int, name: str, payload: JSON = None) -> int:
        """End one wait for this signal, now or later. Returns the signal's number within the run."""
        return field_of(self._post(run_id, f"signals/{segment(name)}", {"payload": payload}), "number", int)

    def saga(self, run_id: int) -> Data:
        """What is undone, or what would be if the run failed now. Raises `NotFound` if it is no saga."""
        return typed(self._transport.get(f"/api/v1/runs/{run_id}/saga"), Data)

    def retry_saga(self, run_id: int) -> Data:
        """Run compensations that failed once more, but for skipped ones."""
        return self._post(run_id, "saga/retry")

    def skip_saga(self, run_id: int, names: Iterable[str], reason: str) -> Data:
        """Give up single compensations that failed: no retry runs them. All of those named, or none."""
        return self._post(run_id, "saga/skip", {"tasks": list(names), "reason": reason})

    def sign_off_saga(self, run_id: int, reason: str) -> Data:
        """Declare that somebody has taken care of the compensations that failed."""
        return self._post(run_id, "saga/sign-off", {"reason": reason})

    def _post(self, run_id: int, what: str, body: dict[str, Any] | None = None) -> Data:
        return typed(self._transport.send("POST", f"/api/v1/runs/{run_id}/{what}", body), Data)
