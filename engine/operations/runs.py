"""Runs: read, hold, resume, cancel, retry, delete, prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.errors import Conflict, NotFound
from engine.model.outcomes import NO_REASON
from engine.model.records import Event, LogLine, Run, Task
from engine.model.skips import Skips
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.operations.relays import tell_rest
from engine.store import keys, queries, relays, removal, sagas
from engine.store import runs as store
from engine.store.database import Database, Transaction
from engine.store.functions import forget_ended
from engine.store.workers import forget

KEY_SECONDS = 24 * 3600
_PRUNE_RUNS = 50  # in one transaction
_PRUNE_TASKS = 20_000  # likewise


_WORDS = {state: state.value for state in RunState}


class Terms(NamedTuple):
    """A client contract's words for a run and its states, and whether it refuses what is done already."""

    noun: str = "run"
    states: Mapping[RunState, str] = _WORDS
    is_strict: bool = False


OURS = Terms()


# --- read


async def get(database: Database, run_id: int) -> Run:
    run = await database.read(queries.get_run, run_id)
    if run is None:
        raise NotFound(f"run not found: {run_id}")
    return run


async def list_runs(
    database: Database,
    *,
    state: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Run]:
    return await database.read(
        lambda tx: queries.list_runs(tx, state=state, name=name, before=before, limit=limit)
    )


async def tasks(
    database: Database,
    run_id: int,
    *,
    state: str | None = None,
    after: int | None = None,
    limit: int = 1000,
) -> list[Task]:
    return await database.read(
        lambda tx: queries.list_tasks(tx, run_id, state=state, after=after, limit=limit)
    )


async def skips(database: Database, run_id: int) -> Skips:
    """Which skipped tasks a failure kept from running."""
    return await database.read(queries.skips, run_id)


async def edges(
    database: Database, run_id: int, *, limit: int | None = None
) -> list[tuple[str, str, str | None]]:
    return await database.read(lambda tx: queries.list_edges(tx, run_id, limit=limit))


async def events(database: Database, run_id: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
    """Events numbered above `after`, in order; reading on from the last number misses nothing."""
    return await database.read(lambda tx: queries.list_events(tx, run_id, after=after, limit=limit))


async def logs(
    database: Database,
    run_id: int,
    *,
    task_name: str | None = None,
    limit: int = 1000,
    offset: int = 0,
    terms: Terms = OURS,
) -> list[LogLine]:
    """Raises `NotFound` for a task that the run does not have."""

    def read(tx: Transaction) -> list[LogLine]:
        lines = queries.list_logs(tx, run_id, task_name=task_name, limit=limit, offset=offset)
        if task_name is not None and not lines and queries.get_task_by_name(tx, run_id, task_name) is None:
            raise NotFound(f"{terms.noun} {run_id} has no task {task_name!r}")
        return lines

    return await database.read(read)


# --- control


async def hold(database: Database, run_id: int, *, actor: str = "local", terms: Terms = OURS) -> Run:
    """Pause: after this returns no new attempt of the run starts until `resume`. Running ones go on."""
    return await database.run(_hold, run_id, terms, actor=actor)


async def resume(database: Database, run_id: int, *, actor: str = "local", terms: Terms = OURS) -> Run:
    return await database.run(_resume, run_id, terms, actor=actor)


async def cancel(
    database: Database,
    run_id: int,
    *,
    reason: str = NO_REASON,
    actor: str = "local",
    terms: Terms = OURS,
) -> Run:
    """After this returns no further task of the run starts; running attempts are told to stop."""
    return await database.run(cancel_within, run_id, reason, terms, actor=actor)


async def retry(database: Database, run_id: int, *, actor: str = "local", terms: Terms = OURS) -> Run:
    """A failed or cancelled run goes on from the tasks that did not succeed; results stay."""
    return await database.run(retry_within, run_id, terms, actor=actor)


async def delete(database: Database, run_id: int, *, actor: str = "local") -> None:
    """Remove a finished run with everything that belongs to it, after callbacks and plug-ins were told."""
    await tell_rest(database, run_id)
    await database.run(_delete, run_id, actor=actor)


def _own(tx: Transaction, run_id: int) -> Any:
    row = store.own(tx, run_id)
    if row is None:
        raise NotFound(f"run not found: {run_id}")
    return row


def _hold(tx: Transaction, run_id: int, terms: Terms) -> Run:
    state = RunState(_own(tx, run_id).state)
    if state in FINAL_RUN_STATES or (terms.is_strict and state is RunState.PAUSED):
        raise _refusal(run_id, state, terms, "paused", RunState.PENDING, RunState.RUNNING)
    if state is not RunState.PAUSED:
        store.hold(tx, run_id)
    return _current(tx, run_id)


def _resume(tx: Transaction, run_id: int, terms: Terms) -> Run:
    state = RunState(_own(tx, run_id).state)
    if state in FINAL_RUN_STATES or (terms.is_strict and state is not RunState.PAUSED):
        raise _refusal(run_id, state, terms, "resumed", RunState.PAUSED)
    if state is RunState.PAUSED:
        store.resume(tx, run_id)
    return _current(tx, run_id)


def cancel_within(tx: Transaction, run_id: int, reason: str, terms: Terms = OURS) -> Run:
    """`cancel` inside a transaction that somebody else commits."""
    row = _own(tx, run_id)
    state = RunState(row.state)
    if state in (RunState.SUCCEEDED, RunState.FAILED) or (terms.is_strict and state is RunState.CANCELLED):
        unfinished = (RunState.PENDING, RunState.RUNNING, RunState.PAUSED)
        raise _refusal(run_id, state, terms, "cancelled", *unfinished)
    if state is not RunState.CANCELLED and not row.is_cancelling:
        store.cancel(tx, run_id, reason)
    return _current(tx, run_id)


def retry_within(tx: Transaction, run_id: int, terms: Terms = OURS) -> Run:
    """`retry` inside a transaction that somebody else commits."""
    state = RunState(_own(tx, run_id).state)
    if state not in (RunState.FAILED, RunState.CANCELLED):
        raise _refusal(run_id, state, terms, "retried", RunState.FAILED, RunState.CANCELLED)
    if (compensations := sagas.compensating(tx, run_id)) is not None:
        called = f"{terms.noun} {run_id}"
        raise Conflict(f"{called} is undone by run {compensations}; start it anew instead of retrying it")
    relays.reopen(tx, run_id)
    store.rerun(tx, run_id)
    return _current(tx, run_id)


def _refusal(run_id: int, state: RunState, terms: Terms, done: str, *accepted: RunState) -> Conflict:
    *others, last = (terms.states[each] for each in accepted)
    listed = f"{', '.join(others)} or {last}" if others else last
    called = f"{terms.noun} {run_id} is {terms.states[state]}"
    return Conflict(f"{called}; only a {listed} {terms.noun} can be {done}")


def _delete(tx: Transaction, run_id: int) -> None:
    state = _own(tx, run_id).state
    if state not in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {state}; cancel it before deleting it")
    removal.delete(tx, [run_id])


def _current(tx: Transaction, run_id: int) -> Run:
    run = queries.get_run(tx, run_id)
    assert run is not None
    return run


# --- retention


async def prune(database: Database, *, finished_seconds: float) -> int:
    """Remove runs that finished longer ago than that, a chunk per transaction. Returns how many.

    Those with events that callbacks or plug-ins are still to be told of stay for that, a week at most.
    """
    removed = 0
    while chunk := await database.run(_prune_chunk, finished_seconds):
        removed += chunk
    await database.run(_forget_old, finished_seconds)
    return removed


def _prune_chunk(tx: Transaction, finished_seconds: float) -> int:
    candidates = removal.finished_before(tx, finished_seconds, _PRUNE_RUNS, _PRUNE_TASKS)
    run_ids = removal.own_finished(tx, candidates)
    if run_ids:
        removal.delete(tx, run_ids)
    return len(run_ids)


def _forget_old(tx: Transaction, finished_seconds: float) -> None:
    keys.forget_keys(tx, KEY_SECONDS)
    forget(tx, finished_seconds)
    forget_ended(tx)
