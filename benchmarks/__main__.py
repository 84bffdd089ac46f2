"""The command line: `python -m benchmarks [SCENARIO …]`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    failed: list[str] = []
    with places(options.db or ["postgres", "sqlite"]) as opened:
        others = _peers(options.peers) if options.peers is not None else []
        about = machine.describe(opened, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
        for name in names:
            bench = Bench(opened, options.quick, others)
            path = options.json if options.json else None if options.quick else RESULTS / f"{name}.json"
            failed += _run(SCENARIOS[name], bench, options.repeats, about, path)
    if not options.quick and options.json is None:
        report.write(RESULTS)
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="instead of results/SCENARIO.json")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out; nothing is kept")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md and the plots again")
    return parser


def _run(
    scenario: Scenario, bench: Bench, repeats: int, about: dict[str, object], path: Path | None
) -> list[str]:
    """Measure and print one scenario; returns what failed. The file is brought up to date all the time."""
    print(f"\n{scenario.name}: {scenario.about}", flush=True)
    repeats = min(repeats, scenario.repeats or repeats)
    result = Result(scenario.name, {**about, "time": machine.now(), "repeats": repeats, "quick": bench.quick})

    def after_each(line: str) -> None:
        print(f"  {line}", flush=True)
        if path is not None:
            result.save(path)

    with ExitStack() as stack:
        bench.stack = stack
        measure(result, scenario.cases(bench), repeats, after_each)
    print(report.table(result))
    return [f"{scenario.name}: {one}" for one in result.failed]


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
