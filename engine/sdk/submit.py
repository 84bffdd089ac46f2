"""`submit`, `submit_many` and `execute`: the runs exist if and only if the caller's transaction commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from typing import Any, overload

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from engine.errors import InvalidInput
from engine.model.graph import Graph
from engine.model.json import JSON
from engine.model.run_defaults import RunDefaults
from engine.operations.submits import Accepted
from engine.sdk.blocking import SyncEngine
from engine.sdk.embedded import Engine
from engine.sdk.requests import ExecuteOne, SubmitMany, SubmitOne, checked_params
from engine.store import borrowed
from engine.store.dialects.handles import opened, run_async

SyncHandle = (
    sa.Connection | Session | scoped_session[Any] | psycopg.Connection[Any] | sqlite3.Connection | SyncEngine
)
AsyncHandle = (
    AsyncConnection | AsyncSession | async_scoped_session[Any] | psycopg.AsyncConnection[Any] | Engine
)


@overload
def submit(
    where: SyncHandle, graph: Graph, *, key: str | None = None, name: str | None = None, actor: str = "local"
) -> Accepted: ...
@overload
def submit(
    where: AsyncHandle, graph: Graph, *, key: str | None = None, name: str | None = None, actor: str = "local"
) -> Awaitable[Accepted]: ...
def submit(
    where: SyncHandle | AsyncHandle,
    graph: Graph,
    *,
    key: str | None = None,
    name: str | None = None,
    actor: str = "local",
) -> Accepted | Awaitable[Accepted]:
    """Store `graph` as a new run in the transaction that is open on `where`.

    With an asynchronous `where`, await the answer. The run is there if and only if that transaction
    commits; until then nothing can be seen or claimed. `key` makes repeats within 24 hours return the
    same run. Raises `InvalidInput` (`GraphError` and others) and `IdempotencyMismatch` before anything is
    written: the transaction stays usable.
    """
    if isinstance(where, Engine | SyncEngine):
        return where.submit(graph, key=key, name=name, actor=actor)
    answer: Accepted | Awaitable[Accepted] = _perform(where, SubmitOne.of(graph, key=key, name=name), actor)
    return answer


@overload
def submit_many(where: SyncHandle, graphs: Iterable[Graph], *, actor: str = "local") -> list[Accepted]: ...
@overload
def submit_many(
    where: AsyncHandle, graphs: Iterable[Graph], *, actor: str = "local"
) -> Awaitable[list[Accepted]]: ...
def submit_many(
    where: SyncHandle | AsyncHandle, graphs: Iterable[Graph], *, actor: str = "local"
) -> list[Accepted] | Awaitable[list[Accepted]]:
    """As `submit`, one run per graph; if one graph is wrong, none is stored."""
    if isinstance(where, Engine | SyncEngine):
        return where.submit_many(graphs, actor=actor)
    answer: list[Accepted] | Awaitable[list[Accepted]] = _perform(where, SubmitMany.of(graphs), actor)
    return answer


@overload
def execute(
    where: SyncHandle,
    workflow: str,
    params: Mapping[str, JSON] | None = None,
    *,
    version: int | None = None,
    key: str | None = None,
    run_defaults: RunDefaults | None = None,
    actor: str = "local",
) -> Accepted: ...
@overload
def execute(
    where: AsyncHandle,
    workflow: str,
    params: Mapping[str, JSON] | None = None,
    *,
    version: int | None = None,
    key: str | None = None,
    run_defaults: RunDefaults | None = None,
    actor: str = "local",
) -> Awaitable[Accepted]: ...
def execute(
    where: SyncHandle | AsyncHandle,
    workflow: str,
    params: Mapping[str, JSON] | None = None,
    *,
    version: int | None = None,
    key: str | None = None,
    run_defaults: RunDefaults | None = None,
    actor: str = "local",
) -> Accepted | Awaitable[Accepted]:
    """As `submit`: start a run of a saved workflow, by its id or name, in the transaction open on `where`.

    `run_defaults` hold for tasks that say nothing themselves; an engine has its own. Raises `NotFound`,
    `Conflict` if it is disabled, and `InvalidInput` for parameters that do not fit.
    """
    if isinstance(where, Engine | SyncEngine):
        if run_defaults is not None:
            raise InvalidInput("an engine has run_defaults of its own: give them to it")
        return where.execute(workflow, params, version=version, key=key, actor=actor)
    request = ExecuteOne(workflow, checked_params(params), version, key, run_defaults or RunDefaults())
    answer: Accepted | Awaitable[Accepted] = _perform(where, request, actor)
    return answer


def _perform(where: object, request: SubmitOne | SubmitMany | ExecuteOne, actor: str) -> Any:
    work = partial(borrowed.perform, work=request, actor=actor, may_lose_race=request.may_lose_race)
    match where:
        case sa.Connection():
            return work(where)
        case Session() | scoped_session():
            return work(where.connection())
        case psycopg.Connection() | sqlite3.Connection():
            with opened(where) as connection:
                return work(connection)
        case AsyncConnection():
            return where.run_sync(work)
        case AsyncSession():
            return where.run_sync(lambda session: work(session.connection()))
        case async_scoped_session():
            return _perform(where(), request, actor)
        case psycopg.AsyncConnection():
            return run_async(where, work)
        case _:
            raise InvalidInput(
                "submit into an engine, a SQLAlchemy connection or session, a psycopg connection or a "
                f"sqlite3 connection; got {type(where).__name__}"
            )
