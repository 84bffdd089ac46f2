"""The floor of a submit: the rows of a run, written by a bare driver. One statement, or COPY for many."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from benchmarks.floors.sqlite import open_file
from benchmarks.servers import connect, is_sqlite

_DETAIL = '{"tasks":%d,"edges":%d}'
_COLUMNS = {
    "run": ("id", "state", "actor", "created_at", "event_count", "total"),
    "event": ("run_id", "number", "kind", "at", "actor", "detail"),
    "task": ("id", "run_id", "name", "kind", "params", "created_at"),
    "task_state": (
        "task_id",
        "run_id",
        "state",
        "queue",
        "kind",
        "rank",
        "available_at",
        "waiting_on",
        "changed_at",
    ),
    "edge": ("parent_id", "child_id"),
    "alias": ("contract", "name", "task_id", "moved_at"),
}


def single(url: str, count: int, connections: int = 1, *, named: bool = False) -> float:
    """Seconds for `count` runs of one task, each in a commit of its own; `named`: with an alias as well."""
    write = _single_sqlite if is_sqlite(url) else _single_postgres
    shares = 1 if is_sqlite(url) else connections  # SQLite has one writer, however many ask
    barrier = threading.Barrier(shares, timeout=60)

    def one(share: int) -> tuple[float, float]:
        return write(url, range(share + 1, count + 1, shares), named, barrier.wait)

    with ThreadPoolExecutor(shares) as pool:
        told = list(pool.map(one, range(shares)))
    return max(end for _, end in told) - min(began for began, _ in told)


_ONE = """
WITH the_run AS (
  INSERT INTO run (id, state, actor, created_at, event_count, total)
  VALUES (%(id)s, 'pending', 'local', statement_timestamp(), 1, 1)
), the_event AS (
  INSERT INTO event (run_id, number, kind, at, actor, detail)
  VALUES (%(id)s, 1, 'run.submitted', statement_timestamp(), 'local', '{"tasks":1,"edges":0}')
), the_task AS (
  INSERT INTO task (id, run_id, name, kind, params, created_at)
  VALUES (%(id)s, %(id)s, %(name)s, 'noop', '{}', statement_timestamp())
), the_state AS (
  INSERT INTO task_state (task_id, run_id, state, queue, kind, rank, available_at, changed_at)
  VALUES (%(id)s, %(id)s, 'available', 'default', 'noop', 0, statement_timestamp(), statement_timestamp())
)<alias>
INSERT INTO counter (name, shard, value) VALUES ('open', %(shard)s, 1), ('submitted:noop', %(shard)s, 1)
ON CONFLICT (name, shard) DO UPDATE SET value = counter.value + excluded.value"""
_ALIAS = """, the_alias AS (
  INSERT INTO alias (contract, name, task_id, moved_at)
  VALUES ('execgo', %(name)s, %(id)s, statement_timestamp())
  ON CONFLICT (contract, name) DO UPDATE SET task_id = excluded.task_id, moved_at = excluded.moved_at
)"""


def _single_postgres(
    url: str, ids: Sequence[int], named: bool, go: Callable[[], object]
) -> tuple[float, float]:
    query = _ONE.replace("<alias>", _ALIAS if named else "")
    with connect(url) as connection:
        shard = connection.info.backend_pid % 256
        go()
        began = time.monotonic()
        for number in ids:
            connection.execute(query, {"id": number, "name": f"t{number}", "shard": shard}, prepare=True)
        return began, time.monotonic()


def _single_sqlite(
    url: str, ids: Sequence[int], named: bool, go: Callable[[], object]
) -> tuple[float, float]:
    with closing(open_file(url)) as connection:
        go()
        began = time.monotonic()
        for number in ids:
            connection.execute("BEGIN IMMEDIATE")
            _insert_many(connection, _rows(number, 1, number, edges=False, named=named))
            connection.execute("COMMIT")
        return began, time.monotonic()


def bulk(url: str, graphs: int, size: int, *, edges: bool = False, named: bool = False) -> float:
    """Seconds for `graphs` runs of `size` tasks, each in a commit of its own."""
    began = time.monotonic()
    if is_sqlite(url):
        with closing(open_file(url)) as connection:
            for number in range(graphs):
                connection.execute("BEGIN IMMEDIATE")
                rows = _rows(number + 1, size, number * size + 1, edges=edges, named=named)
                _insert_many(connection, rows)
                connection.execute("COMMIT")
        return time.monotonic() - began
    with connect(url) as connection:
        for number in range(graphs):
            rows = _rows(number + 1, size, number * size + 1, edges=edges, named=named)
            with connection.transaction(), connection.cursor() as cursor:
                for table, lines in rows.items():
                    with cursor.copy(f"COPY {table} ({', '.join(_COLUMNS[table])}) FROM STDIN") as copy:
                        for line in lines:
                            copy.write_row(line)
                cursor.execute(
                    "INSERT INTO counter (name, shard, value)"
                    " VALUES ('open', 1, %(n)s), ('submitted:noop', 1, %(n)s)"
                    " ON CONFLICT (name, shard) DO UPDATE SET value = counter.value + excluded.value",
                    {"n": size},
                )
    return time.monotonic() - began


def _rows(
    run_id: int, size: int, first: int, *, edges: bool, named: bool
) -> dict[str, Iterator[tuple[Any, ...]]]:
    """Of one run with tasks `first` … `first + size - 1`; with `edges` each but the first has an upstream."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    ids = range(first, first + size)
    detail = _DETAIL % (size, (size - 1) * edges)
    rows: dict[str, Iterator[tuple[Any, ...]]] = {
        "run": iter([(run_id, "pending", "local", now, 1, size)]),
        "event": iter([(run_id, 1, "run.submitted", now, "local", detail)]),
        "task": ((number, run_id, f"t{number}", "noop", "{}", now) for number in ids),
        "task_state": (
            (
                number,
                run_id,
                "blocked" if edges and number > first else "available",
                "default",
                "noop",
                0,
                None if edges and number > first else now,
                int(edges and number > first),
                now,
            )
            for number in ids
        ),
    }
    if edges:
        rows["edge"] = ((first + (number - first) // 2, number) for number in ids[1:])
    if named:
        rows["alias"] = (("execgo", f"t{number}", number, now) for number in ids)
    return rows


def _insert_many(connection: sqlite3.Connection, rows: dict[str, Iterator[tuple[Any, ...]]]) -> None:
    total = 0
    for table, lines in rows.items():
        marks = ", ".join("?" * len(_COLUMNS[table]))
        query = f"INSERT INTO {table} ({', '.join(_COLUMNS[table])}) VALUES ({marks})"
        changed = connection.executemany(query, lines).rowcount
        total = changed if table == "task" else total
    connection.executemany(
        "INSERT INTO counter (name, shard, value) VALUES (?, 1, ?)"
        " ON CONFLICT (name, shard) DO UPDATE SET value = value + excluded.value",
        [("open", total), ("submitted:noop", total)],
    )
