"""Short ways to the situations that tests start from. Everything goes through the public operations."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from engine.model.graph import Dependency, Graph, TaskSpec
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.records import Event, Lease, Run, Task
from engine.operations import runs, submits, tasks, workers
from engine.store.claims import ClaimRequest
from engine.store.database import Database

T = TypeVar("T")
KIND = "noop"
TABLES = ("run", "task", "task_state", "edge", "attempt", "event", "task_log", "task_progress", "alias")


def do(operation: Coroutine[Any, Any, T]) -> T:
    """The answer of an operation, for tests that are not coroutines themselves."""
    return asyncio.run(operation)


def spec(name: str, *depends_on: str | Dependency, **fields: Any) -> TaskSpec:
    edges = tuple(Dependency(item) if isinstance(item, str) else item for item in depends_on)
    return TaskSpec(name=name, kind=fields.pop("kind", KIND), depends_on=edges, **fields)


def graph(text: str, /, **changes: dict[str, Any]) -> Graph:
    """`graph("a -> b, c -> d; e")`: b and c wait for a, d for both, e stands alone.

    Keywords change the task of that name: `graph("a -> b", b={"rule": Rule.ALWAYS})`.
    """
    parents: dict[str, list[str]] = {}
    for chain in text.split(";"):
        above: list[str] = []
        for stage in chain.split("->"):
            names = [name.strip() for name in stage.split(",")]
            for name in names:
                parents.setdefault(name, []).extend(above)
            above = names
    specs = [spec(name, *above) for name, above in parents.items()]
    return Graph(tuple(replace(one, **changes.get(one.name, {})) for one in specs))


def submit(database: Database, submitted: Graph | str, **options: Any) -> submits.Accepted:
    checked = graph(submitted) if isinstance(submitted, str) else submitted
    return do(submits.submit(database, checked, **options))


def session(database: Database, name: str = "worker") -> int:
    return do(session_async(database, name))


async def session_async(database: Database, name: str = "worker") -> int:
    return await workers.register(database, workers.Registration(name, "host", 1, "0", [], 100))


def request(session_id: int, limit: int = 100, **fields: Any) -> ClaimRequest:
    fields = {"token": uuid.uuid4().hex, "queue": "default", "kinds": (KIND,), **fields}
    return ClaimRequest(session_id=session_id, limit=limit, **fields)


def claim(database: Database, session_id: int, limit: int = 100, **fields: Any) -> list[Lease]:
    return do(tasks.claim(database, request(session_id, limit, **fields), actor=f"worker:{session_id}"))


def claim_all(database: Database, session_id: int, limit: int = 100) -> dict[str, Lease]:
    """What is claimable now, by name."""
    return {lease.name: lease for lease in claim(database, session_id, limit)}


def finish(database: Database, *ended: tuple[Lease, Outcome]) -> list[Lease]:
    """Record outcomes; returns the leases that were lost."""
    return do(tasks.finish(database, ended, actor="worker"))


def end_all(database: Database, *failing: str) -> None:
    """Run whatever can run, until nothing can; the named tasks fail."""
    one = session(database)
    while leases := claim(database, one):
        finish(
            database,
            *((lease, Failed("no") if lease.name in failing else Succeeded()) for lease in leases),
        )


def running(
    database: Database, submitted: Graph | str = "a", limit: int = 100
) -> tuple[submits.Accepted, dict[str, Lease]]:
    """A new run, whose first tasks are claimed by a new session."""
    accepted = submit(database, submitted)
    return accepted, claim_all(database, session(database), limit)


# --- what is there


def run_of(database: Database, run_id: int) -> Run:
    return do(runs.get(database, run_id))


def task_of(database: Database, run_id: int, name: str) -> Task:
    return do(tasks.get_by_name(database, run_id, name))


def states(database: Database, run_id: int) -> dict[str, str]:
    return {task.name: str(task.state) for task in do(runs.tasks(database, run_id))}


def events(database: Database, run_id: int) -> list[Event]:
    return do(runs.events(database, run_id, limit=1_000_000))


def rows(database: Database, query: str, **binds: Any) -> list[Any]:
    """Rows of plain SQL, so that a check does not rest on the code it checks."""
    return database.read_sync(lambda tx: tx.execute(sa.text(query), binds).all())


def counts(database: Database) -> dict[str, int]:
    """The number of rows in each table that a run fills."""
    return {table: rows(database, f"SELECT count(*) AS n FROM {table}")[0].n for table in TABLES}


def write(database: Database, statement: str, **binds: Any) -> None:
    database.run_sync(lambda tx: tx.execute(sa.text(statement), binds))


def make_due(database: Database) -> None:
    """Let no available task wait for its time."""
    write(database, "UPDATE task_state SET available_at = changed_at WHERE state = 'available'")
