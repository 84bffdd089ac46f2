"""Compensations, kept with their tasks until one is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.model.graph import Plan
from engine.store.database import Transaction
from engine.store.schema import compensation, saga
from engine.store.statement import insert_rows, json_text

_COLUMNS = ("task_id", "kind", "params", "timeout_ms", "retry")


def insert(tx: Transaction, graphs: Iterable[tuple[Plan, int, Sequence[int]]]) -> None:
    """Keep those of new runs, each run given with its id and those of its tasks."""
    sagas: list[list[Any]] = []
    rows: list[list[Any]] = []
    for plan, run_id, task_ids in graphs:
        if not plan.is_saga:
            continue
        sagas.append([run_id])
        for spec, task_id in zip(plan.graph.tasks, task_ids, strict=True):
            if (how := spec.compensation) is not None:
                retry = json_text(how.retry.to_json() or None)
                rows.append([task_id, how.kind, json_text(how.params), how.timeout_ms, retry])
    insert_rows(tx, saga, sagas, ("run_id",))
    insert_rows(tx, compensation, rows, _COLUMNS)
