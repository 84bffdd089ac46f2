"""Measures the engine. Whole runs, without --quick and --db, are kept in results/ and told in RESULTS.md."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import machine, peers, report
from benchmarks.harness import Result, measure
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import Bench, Peer, Scenario
from benchmarks.servers import Place, places, plain

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.report:
        report.write(RESULTS)
        return 0
    if not options.scenarios:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:<14} {scenario.about}")
        return 0
    names = list(SCENARIOS) if options.scenarios == ["all"] else options.scenarios
    if unknown := sorted(set(names) - set(SCENARIOS)):
        sys.exit(f"unknown scenario {', '.join(unknown)} (there are: all, {', '.join(SCENARIOS)})")
    results: dict[str, Result] = {}
    with places(options.db or ["postgres", "sqlite"]) as opened:
        others = _peers(options.peers) if options.peers is not None else []
        about = machine.describe(opened, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
        for name in names:
            results[name] = Result(name, {**about, "time": machine.now(), "quick": options.quick})
            keep = partial(_keep, results, options.json, whole=not options.quick and not options.db)
            _run(SCENARIOS[name], Bench(opened, options.quick, others), options.repeats, results[name], keep)
    if not options.quick and not options.db:
        report.write(RESULTS)
    failed = [f"{name}: {one}" for name, result in results.items() for one in result.failed]
    for one in failed:
        print(f"FAILED: {one}", file=sys.stderr)
    return bool(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="none: list them; all: every one")
    parser.add_argument(
        "--db",
        action="append",
        metavar="URL",
        help="postgres (a server of our own), sqlite, or the URL of a Postgres server; may be repeated",
    )
    parser.add_argument("--peers", nargs="?", const="", metavar="NAME,…", help="measure other engines too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write this command's results there as well"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md and the plots again")
    return parser


def _run(scenario: Scenario, bench: Bench, repeats: int, result: Result, keep: Callable[[], None]) -> None:
    """Measure and print one scenario; `keep` is called after each measurement, for it may take hours."""
    print(f"\n{scenario.name}: {scenario.about}", flush=True)
    result.about["repeats"] = min(repeats, scenario.repeats or repeats)

    def after_each(line: str) -> None:
        print(f"  {line}", flush=True)
        keep()

    with ExitStack() as stack:
        bench.stack = stack
        measure(result, scenario.cases(bench), result.about["repeats"], after_each)
    print(report.table(result))


def _keep(results: Mapping[str, Result], file: Path | None, *, whole: bool) -> None:
    """Write all results to `file` if there is one, and the last of a whole run to the folder of results."""
    if file is not None:
        file.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
    if whole:
        name, last = list(results.items())[-1]
        last.save(RESULTS / f"{name}.json")


def _peers(wanted: str) -> list[Peer]:
    """Those named, or all, each installed in an environment of its own."""
    names = wanted.split(",") if wanted else list(peers.NAMES)
    folder = machine.cache_folder() / "peers"
    made = []
    for name in names:
        kind = peers.NAMES[name]
        place = "postgres" if kind == "redis" else kind
        run = partial(peers.run, name, peers.install(name, folder))
        made.append(Peer(name, place, MOST.get(name, 100_000), run, partial(_database_of, kind)))
    return made


@contextmanager
def _database_of(kind: str, place: Place) -> Iterator[str]:
    if kind == "redis":
        with peers.redis_server() as url:
            yield url
    else:
        with place.empty() as url:
            yield plain(url) if kind == "postgres" else url


# How many jobs a slow peer drains in less than half a minute.
MOST = {"chancy": 20_000, "dbos": 8_000, "procrastinate": 5_000, "dramatiq": 6_000, "huey": 6_000}


if __name__ == "__main__":
    sys.exit(main())
