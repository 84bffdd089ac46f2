"""The arithmetic of the benchmarks, and that they measure what they say: no figure is judged here."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks import comparison, fleet, report, targets
from benchmarks.__main__ import RESULTS, main
from benchmarks.floors import postgres, sqlite
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant, Result, Spread, measure, percentile
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import Bench
from benchmarks.scenarios.shapes import fan
from benchmarks.servers import SqlitePlace
from benchmarks.targets import Check
from engine.model.graph import Graph
from engine.operations import totals
from engine.store.database import Database, Transaction


def _result(**contestants: list[float]) -> Result:
    rounds = {
        name: [{"tasks/s": value} if value else {} for value in values]
        for name, values in contestants.items()
    }
    return Result("drain", figures={"case": rounds})


def _check(required: float, **more: Any) -> Check:
    return Check("drain", "case", "tasks/s", required, contestant="ours", **more)


def test_a_spread_is_least_median_and_most() -> None:
    assert Spread.of([3.0, 9.0, 1.0, 5.0]) == Spread(1.0, 4.0, 9.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_a_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    result = _result(ours=[10, 100, 30], theirs=[10, 50, 20])  # the medians alone would say 1.5
    assert result.ratio("case", "ours", "tasks/s", "theirs") == 1.5
    assert _result(ours=[10, 90, 40], theirs=[10, 10, 10]).ratio("case", "ours", "tasks/s", "theirs") == 4
    assert _result(ours=[40, 10, 20], theirs=[10, 10, 40]).ratio("case", "ours", "tasks/s", "theirs") == 1


def test_rounds_that_failed_do_not_count() -> None:
    result = _result(ours=[10, 0, 30], theirs=[10, 10, 10])
    assert result.spread("case", "ours", "tasks/s") == Spread(10, 20, 30)
    assert result.ratio("case", "ours", "tasks/s", "theirs") == 2
    assert result.failed == ["case, ours"]


def test_contestants_are_measured_in_turn() -> None:
    order: list[str] = []

    def noted(name: str) -> dict[str, float]:
        order.append(name)
        return {"s": 1.0}

    case = Case("one", [Contestant(name, partial(noted, name)) for name in ("a", "b")])
    measure(Result("x"), [case], 2, lambda line: None)
    assert order == ["a", "b", "a", "b"]


def test_a_contestant_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("gone")

    result = Result("x")
    case = Case("c", [Contestant("a", fails), Contestant("b", lambda: {"s": 2.0})])
    measure(result, [case], 1, lambda line: None)
    assert result.figures == {"c": {"a": [{}], "b": [{"s": 2.0}]}}
    assert "gone" in capsys.readouterr().err


def test_bounds_are_judged() -> None:
    results = {"drain": _result(ours=[10.0], theirs=[20.0], third=[4.0])}
    assert _check(10).is_met(results)
    assert not _check(11).is_met(results)
    assert _check(10, is_limit=True).is_met(results)
    assert not _check(9, is_limit=True).is_met(results)
    assert _check(0.5, against="theirs").is_met(results)
    assert not _check(0.6, against="theirs").is_met(results)
    assert _check(0.6, against="theirs", or_else=_check(2, against="third")).is_met(results)
    assert not _check(0.6, against="theirs", or_else=_check(3, against="third")).is_met(results)
    assert _check(9, stretch=10).is_stretch_met(results)
    assert _check(9, stretch=11).is_stretch_met(results) is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert _check(1).is_met({}) is None
    assert _check(1, against="absent").is_met({"drain": _result(ours=[10.0])}) is None


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = _result(ours=[1.5, 2.5])
    result.save(tmp_path / "deep" / "drain.json")
    assert Result.load(tmp_path / "deep" / "drain.json") == result


def test_the_document_holds_every_target_and_every_figure() -> None:
    about = {"versions": {}, "command": "c", "repeats": 1, "time": "t", "commit": "x", "machine": "m"}
    case = targets.ROWS[0].checks[0].case
    figures = {case: {ENGINE: [{"tasks/s": 123.0}], FLOOR: [{"tasks/s": 1000.0}]}}
    result = Result("drain", {**about, "system": "s", "load": 0.0}, figures)
    lines = report.document({"drain": result}, {"drain"}).splitlines()
    for row in targets.ROWS:
        assert any(line.startswith(f"| {row.name} |") for line in lines)
    assert f"| {case}: tasks/s | ≥ 0.6 × {FLOOR} | 0.123 × {FLOOR} | **missed** |" in "\n".join(lines)
    assert f"| {ENGINE} | tasks/s | 123 | 123 | 123 | 0.12 |  |" in lines
    assert "![drain](results/drain.svg)" in lines


def test_the_readme_has_the_table_of_the_results() -> None:
    results = report.load(RESULTS)
    text = comparison.README.read_text()
    assert comparison.written(text, results) == text
    assert all(cells.count("**") >= 2 for cells in comparison.table(results).splitlines()[2:])


def test_every_scenario_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)


def test_every_target_names_a_case_that_its_scenario_has(places: list[Any]) -> None:
    """With the full sizes, of which cases and contestants are named but nothing is measured."""
    known = {}
    for name in {check.scenario for row in targets.ROWS for check in row.checks} - {"depth"}:
        with ExitStack() as stack:
            cases = list(SCENARIOS[name].cases(Bench(places, stack=stack)))
        known[name] = {case.name: {contestant.name for contestant in case.contestants} for case in cases}
    peers = {targets.PGQUEUER, targets.HUEY}
    for row in targets.ROWS:
        for check in row.checks:
            if check.scenario in known:
                others = {
                    check.against if isinstance(check.against, str) else (check.against or (ENGINE,))[0]
                }
                assert {check.contestant, *others} - peers <= known[check.scenario][check.case], row.name


@pytest.fixture
def places(tmp_path: Path) -> list[Any]:
    """One of each kind, neither of which is ever asked for a database."""

    class Nowhere:
        name = "postgres"
        pid = None

    return [Nowhere(), SqlitePlace(tmp_path)]


def test_floors_claim_through_the_index_of_the_queue(database_url: str) -> None:
    """Without it they sort the whole queue for each batch, and the engine shines for nothing."""
    if database_url.startswith("sqlite"):
        with closing(sqlite.open_file(database_url)) as connection:
            asked = connection.execute(f"EXPLAIN QUERY PLAN {sqlite.CLAIM}", ["2026"] * 4 + [1])
            plan = str(asked.fetchall())
    else:
        with postgres.connect(database_url) as connection:
            connection.execute("SET enable_seqscan = off")  # as the floor does
            binds = {"token": "f", "session": 1, "rank": 0, "at": "-infinity", "id": 0, "batch": 1}
            binds |= {"actor": "worker:1", "shard": 1}
            plan = str(connection.execute(f"EXPLAIN {postgres.CLAIM}", binds).fetchall())
    assert "ix_task_state_claim" in plan


def test_floors_leave_the_rows_that_the_engine_leaves(database_url: str, database: Database) -> None:
    """Else they would be floors of something else: same events, attempts, states, tallies and totals."""
    graphs = [_of_noops(fan(7)), fleet.tasks_graph(5), fleet.tasks_graph(1)]
    before = _totals(database)
    by_engine = [accepted.run_id for accepted in fleet.submit(database_url, *graphs)]
    with fleet.workers(database_url):
        fleet.wait_until_done(database)
    between = _totals(database)
    by_floor = [accepted.run_id for accepted in fleet.submit(database_url, *graphs)]
    if database.dialect.locks_rows:
        postgres.drain(database_url, postgres.SameRowsDag)
    else:
        sqlite.same_rows(database_url, journal="TRUNCATE")
    assert [_rows(database, run_id) for run_id in by_floor] == [
        _rows(database, run_id) for run_id in by_engine
    ]
    assert _gains(between, _totals(database)) == _gains(before, between)


def _of_noops(graph: Graph) -> Graph:
    return Graph(tuple(replace(task, kind="noop") for task in graph.tasks))


def _gains(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def _totals(database: Database) -> Counter[str]:
    counts = asyncio.run(totals.read(database))
    return Counter({name: counts[name] for name in ("open", "running", "started", "succeeded")})


_ROWS = (
    "SELECT state, event_count, total, running, succeeded, started_at IS NULL, finished_at IS NULL"
    " FROM run WHERE id = :id",
    "SELECT kind, attempt, count(*), count(task_id), count(at), count(detail)"
    " FROM event WHERE run_id = :id GROUP BY kind, attempt ORDER BY kind",
    "SELECT min(number), max(number), count(DISTINCT number) FROM event WHERE run_id = :id",
    "SELECT number, kind FROM event WHERE run_id = :id AND kind LIKE 'run.%' ORDER BY number",
    "SELECT state, attempt, waiting_on, failures, is_cancelling, count(*), count(token), count(session_id),"
    " count(started_at), count(available_at), count(branch), count(reason) FROM task_state WHERE run_id = :id"
    " GROUP BY state, attempt, waiting_on, failures, is_cancelling",
    "SELECT outcome, number, CAST(result AS text), count(*), count(attempt.session_id), count(error),"
    " count(attempt.finished_at) FROM attempt JOIN task ON task.id = task_id WHERE run_id = :id"
    " GROUP BY outcome, number, CAST(result AS text)",
)


def _rows(database: Database, run_id: int) -> list[list[tuple[Any, ...]]]:
    """What a run has left behind, without ids, times and tokens."""

    def read(tx: Transaction) -> list[list[tuple[Any, ...]]]:
        return [[tuple(row) for row in tx.execute(sa.text(query), {"id": run_id})] for query in _ROWS]

    return database.read_sync(read)


@pytest.mark.slow
def test_a_quick_drain_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "drain.json"
    assert main(["drain", "--quick", "--db", "sqlite", "--repeats", "1", "--json", str(file)]) == 0
    result = Result(**json.loads(file.read_text())["drain"])
    assert result.about["quick"]
    for contestants in result.figures.values():
        assert contestants[ENGINE][0]["tasks/s"] > 0
        assert contestants[FLOOR][0]["tasks/s"] > 0
    assert "÷ floor" in capsys.readouterr().out
