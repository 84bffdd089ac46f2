"""`Harness` for tests without an event loop: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from engine.model.graph import Graph
from engine.model.json import JSON
from engine.model.records import Run
from engine.sdk.blocking import SyncEngine
from engine.sdk.workflows import Definition
from engine.testing.clock import VirtualClock
from engine.testing.ended import Ended
from engine.testing.harness import PATIENCE_SECONDS, Harness, Signals

R = TypeVar("R")


class SyncHarness(SyncEngine):
    """Takes what `Harness` takes, and opens itself when it is first used: pytest would take back the output
    of tasks if that was in a fixture.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("sqlite://")
        self._engine: Harness = Harness(**options)
        self._is_closed = False

    @property
    def clock(self) -> VirtualClock:
        return self._engine.clock

    def close(self) -> None:
        """Give back what still runs. It cannot be opened again."""
        self._is_closed = True
        if self._thread is not None:
            self._end()

    def _run(self, call: Coroutine[Any, Any, R]) -> R:
        if self._loop is None and not self._is_closed:
            self.__enter__()
        return super()._run(call)

    # --- as of `Harness`

    def add_functions(self, *functions: Any) -> None:
        self._run(self._engine.add_functions(*functions))

    def add_services(self, **services: Any) -> None:
        self._engine.add_services(**services)

    def run(
        self,
        workflow: Definition | Graph | str,
        params: Mapping[str, JSON] | None = None,
        *,
        signals: Signals = (),
        until: timedelta | datetime | None = None,
        timeout: float = PATIENCE_SECONDS,
    ) -> Ended:
        call = self._engine.run(workflow, params, signals=signals, until=until, timeout=timeout)
        return self._run(call)

    def ended(
        self,
        run_id: int,
        *,
        until: timedelta | datetime | None = None,
        timeout: float = PATIENCE_SECONDS,
    ) -> Ended:
        return self._run(self._engine.ended(run_id, until=until, timeout=timeout))

    def wait(self, run_id: int, timeout: float | None = PATIENCE_SECONDS) -> Run:
        return self._run(self._engine.wait(run_id, timeout))

    def advance(
        self, by: timedelta | None = None, *, timeout: float = PATIENCE_SECONDS, **parts: float
    ) -> datetime:
        return self._run(self._engine.advance(by, timeout=timeout, **parts))

    def fire(self, schedule: str, *, timeout: float = PATIENCE_SECONDS) -> datetime:
        return self._run(self._engine.fire(schedule, timeout=timeout))

    def jump(self, by: timedelta | None = None, **parts: float) -> datetime:
        return self._run(self._engine.jump(by, **parts))
