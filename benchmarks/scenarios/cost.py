"""What a task costs the database at full drain: statements, commits, WAL. No clock is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import psycopg

from benchmarks import fleet
from benchmarks.floors import postgres
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.scenarios.dag import layered
from benchmarks.scenarios.drain import Load, load
from benchmarks.servers import Place, connect

UNRELATED = "postgres, unrelated tasks"
DAG = "postgres, layered DAG"
_COUNTS = f"""
SELECT (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
        WHERE dbid = database.oid AND query !~* '^\\s*(BEGIN|COMMIT|ROLLBACK)'
          AND query NOT LIKE '%%{fleet.MARK}%%'),
       xact_commit - (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
                      WHERE dbid = database.oid AND query LIKE '%%{fleet.MARK}%%'),
       pg_current_wal_lsn() - '0/0'
FROM pg_stat_database AS stats JOIN pg_database AS database ON database.oid = stats.datid
WHERE database.datname = %s"""

_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(50_000, 5_000)
    graphs = {
        UNRELATED: (fleet.tasks_graph(count), postgres.SameRows),
        DAG: (layered(count), postgres.SameRowsDag),
    }
    for place in bench.places:
        if place.name == "postgres":
            for name, (graph, form) in graphs.items():
                loaded = partial(load, graph)
                yield Case(
                    name,
                    [
                        Contestant(ENGINE, partial(_engine, place, loaded, count)),
                        Contestant(FLOOR, partial(_floor, place, loaded, form, count)),
                    ],
                )


def _engine(place: Place, loaded: Load, count: int) -> Figures:
    with ExitStack() as stack:
        url = stack.enter_context(place.fresh())
        figures = stack.enter_context(_counted(place, url, loaded, count))
        processes = stack.enter_context(fleet.workers(url))
        fleet.wait_until_done(stack.enter_context(fleet.opened(url)), processes)
    return figures


def _floor(place: Place, loaded: Load, form: type[postgres.SameRows], count: int) -> Figures:
    with place.fresh() as url, _counted(place, url, loaded, count) as figures:
        postgres.drain(url, form)
    return figures


@contextmanager
def _counted(place: Place, url: str, loaded: Load, tasks: int) -> Iterator[dict[str, float]]:
    """Fills the figures with what the block has cost; those in it must have gone when it ends."""
    figures: dict[str, float] = {}
    with place.empty() as other, connect(other) as watching, connect(url) as connection:
        row: Any = connection.execute("SELECT current_database()").fetchone()
        # A database of its own for the questions: those about the other one would be counted in it.
        watching.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute(f"ALTER DATABASE {row[0]} SET pg_stat_statements.track = 'top'")
        # The first change of a page after a checkpoint logs the whole page: none may come in between.
        watching.execute("CHECKPOINT")
        loaded(url)
        connection.close()
        before = _counts(watching, row)
        yield figures
        after = _counts(watching, row)
    names = ("statements/task", "commits/task", "WAL bytes/task")
    for name, least, most in zip(names, before, after, strict=True):
        figures[name] = float(most - least) / tasks


def _counts(watching: psycopg.Connection[Any], database: Any) -> tuple[Any, ...]:
    """Taken when nobody is connected to `database` any more: a session tells what it did when it ends."""
    fleet.wait_until(lambda: watching.execute(_SESSIONS, database).fetchone() == (0,), 60)
    counts: Any = watching.execute(_COUNTS, database).fetchone()
    return tuple(counts)


SCENARIO = Scenario("cost", "statements, commits and WAL bytes for each task at full drain", cases)
