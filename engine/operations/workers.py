"""Worker sessions: register, look for orders, end, and take back what dead ones held."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.outcomes import Crashed, Outcome, Released
from engine.model.records import Lease, WorkerSession
from engine.operations.tasks import encode
from engine.store import claims, finishes, submits, workers
from engine.store.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Registration:
    name: str
    host: str
    pid: int
    version: str
    queues: list[str]  # empty: every queue
    concurrency: int


async def register(database: Database, registration: Registration) -> int:
    """Open a session and return its id, which alone is its identity: host names and pids are reused."""
    return await database.run(_register, registration)


def _register(tx: Transaction, registration: Registration) -> int:
    return workers.register(
        tx,
        name=registration.name,
        host=registration.host,
        pid=registration.pid,
        version=registration.version,
        queues=registration.queues,
        concurrency=registration.concurrency,
    )


async def orders(database: Database, session_id: int) -> dict[int, tuple[str, str | None]]:
    """What a session still holds: task id → (token, why it is to stop, None if it is not)."""
    return await database.read(workers.orders, session_id)


async def queue_names(database: Database) -> list[str]:
    return await database.read(submits.queue_names)


async def live(database: Database) -> list[WorkerSession]:
    return await database.read(workers.live_sessions)


async def list_sessions(
    database: Database, *, only_live: bool = False, limit: int | None = None, offset: int = 0
) -> list[WorkerSession]:
    """Newest first."""
    return await database.read(
        lambda tx: workers.sessions(tx, only_live=only_live, limit=limit, offset=offset)
    )


async def sessions_to_clear(database: Database) -> list[WorkerSession]:
    return await database.read(workers.sessions_to_clear)


async def end_stalled(database: Database) -> int:
    """End transactions whose process was stopped or cut off in the middle: they hold locks of others."""
    return await database.read(lambda tx: tx.dialect.end_stalled(tx))


async def end(database: Database, session_id: int, reason: str) -> int:
    """Close a session cleanly; what it still holds is released at once. Returns how many tasks."""
    return await database.run(_end, session_id, reason, actor=f"worker:{session_id}")


async def expire(database: Database, session: WorkerSession, observer: int) -> int | None:
    """Declare a session dead whose beat has not moved, and take back its tasks in the same transaction.

    Returns how many tasks, None if the session beat meanwhile or somebody else was faster.
    """
    return await database.run(_expire, session, actor=f"sweeper:{observer}")


async def clear(database: Database, session: WorkerSession, observer: int) -> int:
    """Take back what an ended session still holds: its guardian ended it, or a claim came too late."""
    return await database.run(_take_back, session.id, Crashed(), actor=f"sweeper:{observer}")


async def end_all(database: Database, reason: str) -> int:
    """End every session, for the only process that can use the database. Returns tasks taken back."""
    return await database.run(_end_all, reason, actor="recovery")


def _end(tx: Transaction, session_id: int, reason: str) -> int:
    workers.end(tx, session_id, reason)
    return _take_back(tx, session_id, Released(reason))


def _expire(tx: Transaction, session: WorkerSession) -> int | None:
    if not workers.end(tx, session.id, "heartbeat lost", session.beat):
        return None
    return _take_back(tx, session.id, Crashed())


def _end_all(tx: Transaction, reason: str) -> int:
    for session in workers.live_sessions(tx):
        workers.end(tx, session.id, reason)
    return sum(_take_back(tx, session.id, Crashed()) for session in workers.sessions_to_clear(tx))


def _take_back(tx: Transaction, session_id: int, outcome: Outcome) -> int:
    leases: list[Lease] = claims.leases_of_session(tx, session_id)
    if not leases:
        return 0
    return len(leases) - len(finishes.finish(tx, [encode(lease, outcome) for lease in leases]).read())
