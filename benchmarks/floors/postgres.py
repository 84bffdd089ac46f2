"""Floors on Postgres: psycopg, prepared statements, one pipelined round trip a batch.

Every form ends one batch and claims the next in one transaction, passes ids as one array literal and
results as one JSON document, finds rows by `id = any(…)`, and claims from a moving lower bound.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec
import psycopg

from benchmarks.servers import connect

BATCH = 500
Row = tuple[Any, ...]  # begins with the id
Connection = psycopg.Connection[Any]


class Form(Protocol):
    """One layout of rows. `work` is what a claim returned; its first column is the id."""

    def __init__(self, connection: Connection, batch: int) -> None: ...

    def finish(self, work: Sequence[Row]) -> None:
        """Send what ends a batch."""
        ...

    def claim(self) -> psycopg.Cursor[Any]:
        """Send what claims a batch."""
        ...

    def claimed(self, rows: Sequence[Row]) -> None:
        """Take note of how far the claim came."""
        ...


def drain(url: str, form: type[Form], connections: int = 1, batch: int = BATCH) -> tuple[int, float]:
    """(rows moved, seconds) until nothing is left.

    Connections are threads: the server is the limit, a connection keeps a tenth of a core busy here.
    """
    barrier = threading.Barrier(connections, timeout=60)
    with ThreadPoolExecutor(connections) as pool:
        ended = [pool.submit(_drain, url, form, batch, barrier) for _ in range(connections)]
        told = [future.result() for future in ended]
    return sum(moved for moved, _, _ in told), max(end for *_, end in told) - min(at for _, at, _ in told)


def _drain(url: str, form: type[Form], batch: int, barrier: threading.Barrier) -> tuple[int, float, float]:
    with connect(url) as connection:
        # Statistics of a queue are always stale. Hash joins stay: without them `id = any(…)` beside a join to
        # the results is checked for every pair of rows.
        connection.execute("SET enable_seqscan = off; SET enable_mergejoin = off")
        rows = form(connection, batch)
        barrier.wait()
        began = time.monotonic()
        moved = move_all(connection, rows)
        return moved, began, time.monotonic()


def move_all(connection: Connection, rows: Form) -> int:
    """Claim and finish until two claims in a row find nothing; returns how many rows."""
    moved, empty = 0, 0
    work: Sequence[Row] = ()
    while empty < 2:
        with connection.pipeline():
            connection.execute("BEGIN", prepare=True)
            if work:
                rows.finish(work)
            cursor = rows.claim()
            connection.execute("COMMIT", prepare=True)
        moved += len(work)
        work = cursor.fetchall()
        rows.claimed(work)
        empty = 0 if work else empty + 1
    return moved


# --- the engine's own rows

_ENDED = """
WITH ended AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(ended)s::json) AS ended(id bigint, result json)
), finished AS (
  UPDATE task_state SET state = 'succeeded', changed_at = statement_timestamp()
  FROM ended
  WHERE task_id = ended.id AND task_id = ANY(%(ids)s::bigint[])
    AND token = %(token)s AND state || '' = 'running'
  RETURNING task_id, run_id, attempt, session_id, started_at, ended.result
), attempts AS (
  INSERT INTO attempt (task_id, number, session_id, started_at, finished_at, outcome, result)
  SELECT task_id, attempt, session_id, started_at, statement_timestamp(), 'succeeded', result FROM finished
)"""
_RELEASED = """, parents AS (
  SELECT edge.child_id, count(*) AS number FROM finished JOIN edge ON parent_id = task_id GROUP BY child_id
), released AS (
  UPDATE task_state SET
    waiting_on = waiting_on - parents.number,
    state = CASE WHEN waiting_on = parents.number THEN 'available' ELSE state END,
    available_at = CASE WHEN waiting_on = parents.number THEN statement_timestamp() ELSE available_at END,
    changed_at = CASE WHEN waiting_on = parents.number THEN statement_timestamp() ELSE changed_at END
  FROM parents WHERE task_id = parents.child_id
  RETURNING task_id, run_id, waiting_on
)"""
_FINISHED_CHANGES = ", changes AS (SELECT run_id, task_id, attempt, 'succeeded' AS kind FROM finished{more})"
_UNBLOCKED = """
  UNION ALL SELECT run_id, task_id, NULL::integer, 'unblocked' FROM released WHERE waiting_on = 0"""
_FINISHED_TALLY = """, counted AS (
  SELECT run_id, count(*)::integer AS events, count(*) FILTER (WHERE kind = 'succeeded')::integer AS ended
  FROM changes GROUP BY run_id
), tallied AS (
  UPDATE run SET
    running = running - ended,
    succeeded = succeeded + ended,
    event_count = event_count + events + (succeeded + ended = total)::integer,
    state = CASE WHEN succeeded + ended = total THEN 'succeeded' ELSE state END,
    finished_at = CASE WHEN succeeded + ended = total THEN statement_timestamp() END
  FROM counted WHERE id = run_id
  RETURNING id AS run_id, event_count, event_count - events - (state = 'succeeded')::integer AS before,
    state = 'succeeded' AS is_final
), events AS (
  INSERT INTO event (run_id, number, kind, task_id, attempt, at, actor)
  SELECT run_id, before + row_number() OVER (PARTITION BY run_id), kind, task_id, attempt,
    statement_timestamp(), %(actor)s
  FROM changes JOIN tallied USING (run_id)
  UNION ALL
  SELECT run_id, event_count, 'run.succeeded', NULL, NULL, statement_timestamp(), %(actor)s
  FROM tallied WHERE is_final
)
INSERT INTO counter (name, shard, value)
SELECT name, %(shard)s, value * (SELECT count(*) FROM finished)
FROM (VALUES ('open', -1), ('running', -1), ('succeeded', 1)) AS gains (name, value)
ON CONFLICT (name, shard) DO UPDATE SET value = counter.value + excluded.value"""
_FINISH = _ENDED + _FINISHED_CHANGES.format(more="") + _FINISHED_TALLY
_FINISH_DAG = _ENDED + _RELEASED + _FINISHED_CHANGES.format(more=_UNBLOCKED) + _FINISHED_TALLY

CLAIM = """
WITH claimed AS (
  UPDATE task_state SET state = 'running', attempt = attempt + 1, token = %(token)s, session_id = %(session)s,
    started_at = statement_timestamp(), changed_at = statement_timestamp(), is_cancelling = false
  WHERE task_id = ANY(ARRAY(
    SELECT task_id FROM task_state
    WHERE state = 'available' AND limit_keys IS NULL AND queue = 'default'
      AND available_at <= statement_timestamp()
      AND (rank, available_at, task_id) > (%(rank)s, %(at)s, %(id)s)
    ORDER BY rank, available_at, task_id LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
  RETURNING task_id, run_id, attempt, rank, available_at
), counted AS (
  SELECT run_id, count(*)::integer AS started FROM claimed GROUP BY run_id
), tallied AS (
  UPDATE run SET
    running = running + started,
    event_count = event_count + started + (started_at IS NULL)::integer,
    state = 'running',
    started_at = coalesce(started_at, statement_timestamp())
  FROM counted WHERE id = run_id
  RETURNING id AS run_id, event_count - started AS before, started_at = statement_timestamp() AS is_first
), events AS (
  INSERT INTO event (run_id, number, kind, task_id, attempt, at, actor)
  SELECT run_id, before + row_number() OVER (PARTITION BY run_id), 'started', task_id, attempt,
    statement_timestamp(), %(actor)s
  FROM claimed JOIN tallied USING (run_id)
  UNION ALL
  SELECT run_id, before, 'run.started', NULL, NULL, statement_timestamp(), %(actor)s
  FROM tallied WHERE is_first
), totals AS (
  INSERT INTO counter (name, shard, value)
  SELECT name, %(shard)s, (SELECT count(*) FROM claimed)
  FROM (VALUES ('running'), ('started')) AS gains (name) WHERE EXISTS (SELECT FROM claimed)
  ON CONFLICT (name, shard) DO UPDATE SET value = counter.value + excluded.value
)
SELECT claimed.task_id, claimed.rank, claimed.available_at, task.kind, task.params
FROM claimed JOIN task ON task.id = claimed.task_id"""

_START: Row = (0, -(2**31), "-infinity")  # id, rank, available_at
_RESULT = {"ok": True, "message": ""}  # that of the engine's own no-op


class SameRows:
    """The rows that the engine writes for tasks without edges: state, attempt, result, events, tallies."""

    _finish = _FINISH

    def __init__(self, connection: Connection, batch: int) -> None:
        self._connection = connection
        self._batch = batch
        shard = connection.info.backend_pid % 256
        self._binds = {"session": shard, "shard": shard, "actor": f"worker:{shard}", "token": "f" * 32}
        self._mark = _START

    def finish(self, work: Sequence[Row]) -> None:
        ids = [row[0] for row in work]
        ended = _document([{"id": task_id, "result": _RESULT} for task_id in ids])
        binds = {**self._binds, "ids": array(ids), "ended": ended}
        self._connection.execute(self._finish, binds, prepare=True)

    def claim(self) -> psycopg.Cursor[Any]:
        task_id, rank, at = self._mark
        binds = {**self._binds, "batch": self._batch, "id": task_id, "rank": rank, "at": at}
        return self._connection.execute(CLAIM, binds, prepare=True)

    def claimed(self, rows: Sequence[Row]) -> None:
        full = len(rows) == self._batch
        self._mark = max((row[:3] for row in rows), key=lambda m: (m[1], m[2], m[0])) if full else _START


class SameRowsDag(SameRows):
    """The same, and what the end of a task does to the tasks below it. For one connection."""

    _finish = _FINISH_DAG


# --- the leanest rows


class Minimal:
    """Five columns. Claimed through a lease column, completed through columns that no index mentions."""

    TABLE = """
        CREATE TABLE job (id bigint PRIMARY KEY, priority integer NOT NULL DEFAULT 0, lease integer,
          done boolean NOT NULL DEFAULT false, result json) WITH (fillfactor = 50);
        CREATE INDEX ON job (priority, id) WHERE lease IS NULL"""
    LOAD = "INSERT INTO job (id) SELECT generate_series(1, %s)"
    _CLAIM = """
        UPDATE job SET lease = 1 WHERE id = ANY(ARRAY(
          SELECT id FROM job WHERE lease IS NULL AND (priority, id) > (%(priority)s, %(id)s)
          ORDER BY priority, id LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
        RETURNING id, priority"""
    _FINISH = """
        UPDATE job SET done = true, result = ended.result
        FROM json_to_recordset(%(ended)s::json) AS ended(id bigint, result json)
        WHERE job.id = ended.id AND job.id = ANY(%(ids)s::bigint[])"""

    def __init__(self, connection: Connection, batch: int) -> None:
        self._connection = connection
        self._batch = batch
        self._mark = (0, -(2**31))

    def finish(self, work: Sequence[Row]) -> None:
        ids = [row[0] for row in work]
        ended = _document([{"id": job_id, "result": {}} for job_id in ids])
        self._connection.execute(self._FINISH, {"ids": array(ids), "ended": ended}, prepare=True)

    def claim(self) -> psycopg.Cursor[Any]:
        job_id, priority = self._mark
        binds = {"batch": self._batch, "id": job_id, "priority": priority}
        return self._connection.execute(self._CLAIM, binds, prepare=True)

    def claimed(self, rows: Sequence[Row]) -> None:
        if len(rows) == self._batch:
            self._mark = max(rows, key=lambda row: (row[1], row[0]))[:2]
        else:
            self._mark = (0, -(2**31))


def load_minimal(url: str, count: int) -> None:
    with connect(url) as connection:
        connection.execute(Minimal.TABLE)
        connection.execute(Minimal.LOAD, (count,))


def array(ids: Sequence[int]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"


def _document(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()
