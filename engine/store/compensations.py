"""Compensations, kept with their tasks until one is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
        if plan.is_saga:
            sagas.append([run_id])
            rows += _rows(plan, task_ids)
    insert_rows(tx, saga, sagas, ("run_id",))
    insert_rows(tx, compensation, rows, _COLUMNS)


def insert_more(tx: Transaction, plan: Plan, task_ids: Sequence[int]) -> None:
    """Keep those of tasks that are added to a saga."""
    insert_rows(tx, compensation, list(_rows(plan, task_ids)), _COLUMNS)


def _rows(plan: Plan, task_ids: Sequence[int]) -> Iterator[list[Any]]:
    for spec, task_id in zip(plan.graph.tasks, task_ids, strict=True):
        if (how := spec.compensation) is not None:
            retry = json_text(how.retry.to_json() or None)
            yield [task_id, how.kind, json_text(how.params), how.timeout_ms, retry]
