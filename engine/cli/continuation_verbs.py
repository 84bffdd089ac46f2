"""What a target can do with signals and sagas of runs: verbs that give the API's data objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from engine.cli.workflow_verbs import Data
from engine.model.json import JSON


class Continuations(Protocol):
    def signal(self, run_id: int, name: str, payload: JSON = None) -> int:
        """Returns the signal's number within the run."""
        ...

    def saga(self, run_id: int) -> Data:
        """Raises `NotFound` if the run is no saga."""
        ...

    def retry_saga(self, run_id: int) -> Data: ...
    def skip_saga(self, run_id: int, names: Iterable[str], reason: str) -> Data: ...
    def sign_off_saga(self, run_id: int, reason: str) -> Data: ...
