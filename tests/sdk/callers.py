"""Programs with a transaction of their own: one class per kind of handle that `engine.submit` accepts."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import engine
from engine.model.graph import Graph


class Caller(ABC):
    """`handle` is what is handed to the engine; everything else is what the program does itself."""

    databases: tuple[str, ...] = ("sqlite", "postgres")
    handle: Any

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)

    @abstractmethod
    async def open(self) -> None: ...
    @abstractmethod
    async def execute(self, statement: str) -> list[Any]: ...
    @abstractmethod
    async def commit(self) -> None: ...
    @abstractmethod
    async def rollback(self) -> None: ...
    @abstractmethod
    async def close(self) -> None: ...

    async def submit(self, graph: Graph, **options: Any) -> engine.Accepted:
        accepted: engine.Accepted = engine.submit(self.handle, graph, **options)
        return accepted

    async def submit_many(self, graphs: Iterable[Graph]) -> list[engine.Accepted]:
        accepted: list[engine.Accepted] = engine.submit_many(self.handle, graphs)
        return accepted

    async def start(self, workflow: str, *given: Any, **options: Any) -> engine.Accepted:
        """A run of a saved workflow."""
        accepted: engine.Accepted = engine.execute(self.handle, workflow, *given, **options)
        return accepted


class SaConnection(Caller):
    async def open(self) -> None:
        self.engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        self.handle = self.engine.connect()

    async def execute(self, statement: str) -> list[Any]:
        result = self.handle.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []

    async def commit(self) -> None:
        self.handle.commit()

    async def rollback(self) -> None:
        self.handle.rollback()

    async def close(self) -> None:
        self.handle.close()
        self.engine.dispose()


class SaSession(SaConnection):
    async def open(self) -> None:
        self.engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        self.handle = Session(self.engine)

    async def execute(self, statement: str) -> list[Any]:
        result = self.handle.connection().exec_driver_sql(statement)
        return list(result) if result.returns_rows else []


class SaScopedSession(SaSession):
    async def open(self) -> None:
        self.engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        self.handle = scoped_session(sessionmaker(self.engine))


class _Async(Caller):
    databases = ("postgres",)

    async def submit(self, graph: Graph, **options: Any) -> engine.Accepted:
        accepted: engine.Accepted = await engine.submit(self.handle, graph, **options)
        return accepted

    async def submit_many(self, graphs: Iterable[Graph]) -> list[engine.Accepted]:
        accepted: list[engine.Accepted] = await engine.submit_many(self.handle, graphs)
        return accepted

    async def start(self, workflow: str, *given: Any, **options: Any) -> engine.Accepted:
        accepted: engine.Accepted = await engine.execute(self.handle, workflow, *given, **options)
        return accepted

    async def commit(self) -> None:
        await self.handle.commit()

    async def rollback(self) -> None:
        await self.handle.rollback()


class SaAsyncConnection(_Async):
    async def open(self) -> None:
        self.engine = create_async_engine(self.url, poolclass=sa.NullPool)
        self.handle = await self.engine.connect()

    async def execute(self, statement: str) -> list[Any]:
        result = await self.handle.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []

    async def close(self) -> None:
        await self.handle.close()
        await self.engine.dispose()


class SaAsyncSession(SaAsyncConnection):
    async def open(self) -> None:
        self.engine = create_async_engine(self.url, poolclass=sa.NullPool)
        self.handle = AsyncSession(self.engine)

    async def execute(self, statement: str) -> list[Any]:
        result = await (await self.handle.connection()).exec_driver_sql(statement)
        return list(result) if result.returns_rows else []


class Psycopg(Caller):
    databases = ("postgres",)

    async def open(self) -> None:
        self.handle = psycopg.connect(libpq(self.url))

    async def execute(self, statement: str) -> list[Any]:
        cursor = self.handle.execute(statement)
        return cursor.fetchall() if cursor.description else []

    async def commit(self) -> None:
        self.handle.commit()

    async def rollback(self) -> None:
        self.handle.rollback()

    async def close(self) -> None:
        self.handle.close()


class PsycopgAsync(_Async):
    async def open(self) -> None:
        self.handle = await psycopg.AsyncConnection.connect(libpq(self.url))

    async def execute(self, statement: str) -> list[Any]:
        cursor = await self.handle.execute(statement)
        return await cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        await self.handle.close()


class Sqlite3(Psycopg):
    databases = ("sqlite",)

    async def open(self) -> None:
        assert self.url.database is not None
        self.handle = sqlite3.connect(self.url.database)


CALLERS = (
    SaConnection,
    SaSession,
    SaScopedSession,
    SaAsyncConnection,
    SaAsyncSession,
    Psycopg,
    PsycopgAsync,
    Sqlite3,
)


def libpq(url: sa.URL) -> str:
    """The URL as psycopg itself reads it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
