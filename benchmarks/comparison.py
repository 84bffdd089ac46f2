"""The engine beside the other ones, in one table for the README. Whoever is best in a row is bold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ENGINE, Result, show
from benchmarks.scenarios import dag, drain, latency, submit

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- comparison -->", "<!-- /comparison -->"
PEERS = {
    "pgqueuer": "pgqueuer",
    "procrastinate": "procrastinate",
    "dbos": "DBOS",
    "chancy": "chancy",
    "dramatiq": "dramatiq (Redis)",
    "huey": "huey (SQLite)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """`is_least_best`: of times, the shortest wins."""

    about: str
    scenario: str
    case: str
    figure: str
    is_least_best: bool = False


_ONE, _TWO, _FOUR = (drain.case("postgres", workers) for workers in (1, 2, 4))
_GRAPH = "tasks/s, a graph of 100,000 tasks and 200,000 edges (others: as many unrelated jobs)"
_IDLE = latency.idle("postgres")
_HERE = "pick-up by an idle worker of the same process, SQLite, from the return: p50 ms"
ROWS = (
    Row("tasks/s, 1 worker process, Postgres", "drain", _ONE, "tasks/s"),
    Row("tasks/s, 2 worker processes", "drain", _TWO, "tasks/s"),
    Row("tasks/s, 4 worker processes", "drain", _FOUR, "tasks/s"),
    Row(_GRAPH, "dag", dag.case("postgres"), "tasks/s"),
    Row("pick-up by an idle worker, from the call: p50 ms", "latency", _IDLE, "from call p50 ms", True),
    Row("the same: p99 ms", "latency", _IDLE, "from call p99 ms", True),
    Row("from the return of the submit: p50 ms", "latency", _IDLE, "from return p50 ms", True),
    Row("submits/s, one after the other", "submit", submit.sdk_single("postgres"), "tasks/s"),
    Row("submits/s, 1,000 at once", "submit", submit.sdk_bulk("postgres"), "tasks/s"),
    Row("tasks/s, one process, SQLite", "drain", drain.ONE_PROCESS, "tasks/s"),
    Row(_HERE, "latency", latency.ONE_PROCESS, "from return p50 ms", True),
)


def table(results: Mapping[str, Result]) -> str:
    """Medians. Empty where something cannot do it, or was not asked to."""
    lines = [f"| | Task Engine | {' | '.join(PEERS.values())} |", f"| --- |{' ---: |' * (1 + len(PEERS))}"]
    lines += [f"| {row.about} | {' | '.join(_cells(row, results))} |" for row in ROWS]
    return "\n".join(lines)


def _cells(row: Row, results: Mapping[str, Result]) -> Iterator[str]:
    medians = {name: _median(row, results, name) for name in (ENGINE, *PEERS)}
    known = [value for value in medians.values() if value is not None]
    best = (min if row.is_least_best else max)(known, default=None)
    for value in medians.values():
        text = "" if value is None else show(value)
        yield f"**{text}**" if value is not None and value == best else text


def _median(row: Row, results: Mapping[str, Result], contestant: str) -> float | None:
    result = results.get(row.scenario)
    spread = None if result is None else result.spread(row.case, contestant, row.figure)
    return None if spread is None else spread.median


def written(text: str, results: Mapping[str, Result]) -> str:
    """The README with the table as it has to be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"
