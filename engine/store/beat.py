"""The heartbeat of a worker session, with as few imports as possible: it runs in the guardian process."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from engine.store.turn import Turn


class Beat(Protocol):
    def send(self) -> bool:
        """Show a sign of life. False: the session has been ended, by whomever. Raises OSError if unknown."""
        ...

    def end(self, reason: str) -> None:
        """Close the session: its worker is gone. What it held is taken back by the next sweep."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BeatTarget:
    """Where a beat goes: keyword arguments for psycopg, or a SQLite file. Travels as JSON."""

    session_id: int
    postgres: dict[str, Any] | None = None
    sqlite: str | None = None

    def open(self) -> Beat | None:
        if self.postgres is not None:
            return _PostgresBeat(self.postgres, self.session_id)
        if self.sqlite is not None:
            return _SqliteBeat(self.sqlite, self.session_id)
        return None  # nobody else can use the database, so nobody waits for a beat


_BEAT = "UPDATE worker_session SET beat = beat + 1 WHERE id = {0} AND ended_at IS NULL"
_END = "UPDATE worker_session SET ended_at = {1}, end_reason = {2} WHERE id = {0} AND ended_at IS NULL"


class _PostgresBeat:
    def __init__(self, arguments: dict[str, Any], session_id: int) -> None:
        self._arguments = arguments
        self._session_id = session_id
        self._connection: psycopg.Connection[Any] | None = None

    def send(self) -> bool:
        return self._execute(_BEAT.format("%s"), (self._session_id,)) == 1

    def end(self, reason: str) -> None:
        self._execute(_END.format("%s", "clock_timestamp()", "%s"), (reason, self._session_id))

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> int:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(**self._arguments, autocommit=True, prepare_threshold=None)
            return self._connection.execute(statement, parameters).rowcount
        except psycopg.Error as error:
            self.close()
            raise OSError(str(error)) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _SqliteBeat:
    def __init__(self, path: str, session_id: int) -> None:
        self._path = path
        self._session_id = session_id
        self._turn = Turn(path)
        self._connection: sqlite3.Connection | None = None

    def send(self) -> bool:
        return self._execute(_BEAT.format("?"), (self._session_id,)) == 1

    def end(self, reason: str) -> None:
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        self._execute(_END.format("?", now, "?"), (reason, self._session_id))

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> int:
        try:
            with self._turn:
                if self._connection is None:
                    self._connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
                    self._connection.execute("PRAGMA synchronous = FULL")
                return self._connection.execute(statement, parameters).rowcount
        except sqlite3.Error as error:
            self._disconnect()
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._disconnect()
        self._turn.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
