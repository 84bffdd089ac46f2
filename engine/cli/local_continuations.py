"""Signals and sagas of the runs of a database, as the API answers them."""

from __future__ import annotations

from collections.abc import Iterable

from engine.api.continuations import saga_out
from engine.cli.local_answers import data_of, now
from engine.cli.workflow_verbs import Data
from engine.model.json import JSON
from engine.operations import sagas, steps
from engine.store.database import Database


class LocalContinuations:
    """The verbs of `engine.cli.continuation_verbs`."""

    database: Database

    def signal(self, run_id: int, name: str, payload: JSON = None) -> int:
        return now(steps.send_signal(self.database, run_id, name, payload))

    def saga(self, run_id: int) -> Data:
        return data_of(saga_out(now(sagas.get(self.database, run_id))))

    def retry_saga(self, run_id: int) -> Data:
        return data_of(saga_out(now(sagas.retry(self.database, run_id))))

    def skip_saga(self, run_id: int, names: Iterable[str], reason: str) -> Data:
        return data_of(saga_out(now(sagas.skip(self.database, run_id, names, reason=reason))))

    def sign_off_saga(self, run_id: int, reason: str) -> Data:
        return data_of(saga_out(now(sagas.sign_off(self.database, run_id, reason=reason))))
