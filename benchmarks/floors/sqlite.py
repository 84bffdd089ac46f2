"""Floors on SQLite: the sqlite3 module, `synchronous = FULL`, one transaction a batch."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

BATCH = 500
CLAIM = """
    UPDATE task_state SET state = 'running', attempt = attempt + 1, token = ?, session_id = 1,
      started_at = ?, changed_at = ?, is_cancelling = 0
    WHERE task_id IN (
      SELECT task_id FROM task_state
      WHERE state = 'available' AND limit_keys IS NULL AND queue = 'default' AND available_at <= ?
      ORDER BY rank, available_at, task_id LIMIT ?)
    RETURNING task_id, run_id, attempt"""
_RESULT = '{"ok":true,"message":""}'


def open_file(url: str, journal: str = "WAL") -> sqlite3.Connection:
    """WAL is what one process alone may use; several share a file through `TRUNCATE`."""
    path = sa.make_url(url).database
    assert path is not None
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def same_rows(url: str, *, journal: str = "WAL", batch: int = BATCH) -> tuple[int, float]:
    """Move the engine's own rows, edges included, until nothing is left: (tasks, seconds)."""
    with closing(open_file(url, journal)) as connection:
        began = time.monotonic()
        moved = _move_all(connection, batch)
        return moved, time.monotonic() - began


def _move_all(connection: sqlite3.Connection, batch: int) -> int:
    moved = 0
    work: Sequence[Any] = ()
    while True:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute("BEGIN IMMEDIATE")
        if work:
            _finish(connection, work, now)
        moved += len(work)
        work = _claim(connection, batch, now)
        connection.execute("COMMIT")
        if not work:
            return moved


def _claim(connection: sqlite3.Connection, batch: int, now: str) -> list[Any]:
    claimed = connection.execute(CLAIM, ("f" * 32, now, now, now, batch)).fetchall()
    if not claimed:
        return []
    for run_id, changes in _by_run([("started", *row) for row in claimed]).items():
        [(before, started_at)] = connection.execute(
            "SELECT event_count, started_at FROM run WHERE id = ?", (run_id,)
        )
        first = started_at is None
        connection.execute(
            "UPDATE run SET state = 'running', running = running + ?, event_count = event_count + ?,"
            " started_at = coalesce(started_at, ?) WHERE id = ?",
            (len(changes), len(changes) + first, now, run_id),
        )
        opening = [("run.started", None, run_id, None)] if first else []
        _write_events(connection, before, [*opening, *changes], now)
    _count(connection, {"running": len(claimed), "started": len(claimed)})
    ids = json.dumps([row[0] for row in claimed])
    connection.execute(
        "SELECT kind, params FROM task WHERE id IN (SELECT value FROM json_each(?))", (ids,)
    ).fetchall()
    return claimed


def _finish(connection: sqlite3.Connection, work: Sequence[Any], now: str) -> None:
    connection.executemany(
        "UPDATE task_state SET state = 'succeeded', changed_at = ?"
        " WHERE task_id = ? AND token = ? AND state || '' = 'running'",
        [(now, task_id, "f" * 32) for task_id, _, _ in work],
    )
    connection.executemany(
        "INSERT INTO attempt (task_id, number, session_id, started_at, finished_at, outcome, result)"
        " VALUES (?, ?, 1, ?, ?, 'succeeded', ?)",
        [(task_id, attempt, now, now, _RESULT) for task_id, _, attempt in work],
    )
    ended = [("succeeded", *row) for row in work]
    for run_id, changes in _by_run(ended + _release(connection, work, now)).items():
        number = sum(kind == "succeeded" for kind, *_ in changes)
        [(before, total, succeeded)] = connection.execute(
            "SELECT event_count, total, succeeded FROM run WHERE id = ?", (run_id,)
        )
        final = succeeded + number == total
        connection.execute(
            "UPDATE run SET running = running - ?, succeeded = succeeded + ?, event_count = event_count + ?,"
            " state = ?, finished_at = ? WHERE id = ?",
            (
                number,
                number,
                len(changes) + final,
                "succeeded" if final else "running",
                now if final else None,
                run_id,
            ),
        )
        closing_event = [("run.succeeded", None, run_id, None)] if final else []
        _write_events(connection, before, [*changes, *closing_event], now)
    _count(connection, {"open": -len(work), "running": -len(work), "succeeded": len(work)})


def _release(connection: sqlite3.Connection, work: Sequence[Any], now: str) -> list[Any]:
    ids = json.dumps([task_id for task_id, _, _ in work])
    children = connection.execute(
        "SELECT child_id, count(*) FROM edge WHERE parent_id IN (SELECT value FROM json_each(?))"
        " GROUP BY child_id",
        (ids,),
    ).fetchall()
    if not children:
        return []
    connection.executemany(
        "UPDATE task_state SET waiting_on = waiting_on - ? WHERE task_id = ?",
        [(number, child) for child, number in children],
    )
    freed = connection.execute(
        "UPDATE task_state SET state = 'available', available_at = ?, changed_at = ?"
        " WHERE task_id IN (SELECT value FROM json_each(?)) AND waiting_on = 0 RETURNING task_id, run_id",
        (now, now, json.dumps([child for child, _ in children])),
    ).fetchall()
    return [("unblocked", task_id, run_id, None) for task_id, run_id in freed]


def _write_events(connection: sqlite3.Connection, before: int, changes: Sequence[Any], now: str) -> None:
    connection.executemany(
        "INSERT INTO event (run_id, number, kind, task_id, attempt, at, actor)"
        " VALUES (?, ?, ?, ?, ?, ?, 'worker:1')",
        [
            (run_id, number, kind, task_id, attempt, now)
            for number, (kind, task_id, run_id, attempt) in enumerate(changes, before + 1)
        ],
    )


def _count(connection: sqlite3.Connection, gains: dict[str, int]) -> None:
    connection.executemany(
        "INSERT INTO counter (name, shard, value) VALUES (?, 1, ?)"
        " ON CONFLICT (name, shard) DO UPDATE SET value = value + excluded.value",
        sorted(gains.items()),
    )


def _by_run(changes: Sequence[Any]) -> dict[int, list[Any]]:
    runs: dict[int, list[Any]] = {}
    for change in changes:
        runs.setdefault(change[2], []).append(change)
    return runs


def minimal(url: str, count: int, *, journal: str = "WAL", batch: int = BATCH) -> tuple[int, float]:
    """The leanest job table, made, filled and drained: (jobs, seconds of the drain)."""
    with closing(open_file(url, journal)) as connection:
        connection.execute(
            "CREATE TABLE job (id INTEGER PRIMARY KEY, priority INTEGER NOT NULL DEFAULT 0, lease INTEGER,"
            " done INTEGER NOT NULL DEFAULT 0, result TEXT)"
        )
        connection.execute("CREATE INDEX ready ON job (priority, id) WHERE lease IS NULL")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO job (id) VALUES (?)", ((number,) for number in range(count)))
        connection.execute("COMMIT")
        began = time.monotonic()
        work: list[Any] = []
        moved = 0
        while True:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE job SET done = 1, result = '{}' WHERE id = ?", work)
            moved += len(work)
            work = connection.execute(
                "UPDATE job SET lease = 1 WHERE id IN (SELECT id FROM job WHERE lease IS NULL"
                " ORDER BY priority, id LIMIT ?) RETURNING id",
                (batch,),
            ).fetchall()
            connection.execute("COMMIT")
            if not work:
                return moved, time.monotonic() - began
