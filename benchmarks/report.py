"""Results as text: a table for the terminal, and RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from benchmarks import comparison, targets
from benchmarks.harness import ENGINE, FLOOR, Result, show
from benchmarks.scenarios import SCENARIOS

RESULTS_MD = Path(__file__).parent / "RESULTS.md"
NOTES = Path(__file__).parent / "notes"  # what people have to say of a scenario: why a bound is missed


def load(folder: Path) -> dict[str, Result]:
    """The last results of every scenario that has been measured, by its name."""
    paths = {name: folder / f"{name}.json" for name in SCENARIOS}
    return {name: Result.load(path) for name, path in paths.items() if path.exists()}


def write(folder: Path) -> None:
    """Draw the plots, write RESULTS.md and the table of the README from the files in `folder`."""
    results = load(folder)
    try:
        from benchmarks import plots  # only they need matplotlib
    except ImportError:
        print("the plots are not drawn again: pip install 'task-engine[bench]'")
    else:
        plots.draw(results, folder)
    RESULTS_MD.write_text(document(results, {path.stem for path in folder.glob("*.svg")}))
    readme = comparison.README
    readme.write_text(comparison.written(readme.read_text(), results))
    print(f"wrote {RESULTS_MD} and the table in {readme}")


# --- terminal


def table(result: Result) -> str:
    """Least, median and most of every figure, its share of the floor's, and the engine's share of it."""
    lines = []
    for case in result.figures:
        lines += ["", case, _line(("", "", "min", "median", "max", "÷ floor", "engine ÷"))]
        lines += [_line(row) for row in _rows(result, case)]
    return "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    name, figure, *numbers = cells
    return f"  {name:<34}{figure:<26}" + "".join(f"{number:>10}" for number in numbers)


def _rows(result: Result, case: str) -> Iterator[tuple[str, ...]]:
    for contestant in result.figures[case]:
        for figure in result.names(case, contestant):
            spread = result.spread(case, contestant, figure)
            assert spread is not None
            of_floor = result.ratio(case, contestant, figure, FLOOR) if contestant != FLOOR else None
            of_engine = result.ratio(case, ENGINE, figure, contestant) if contestant != ENGINE else None
            yield (
                contestant,
                figure,
                *(show(value) for value in (spread.least, spread.median, spread.most)),
                *("" if share is None else f"{share:.2f}" for share in (of_floor, of_engine)),
            )


# --- RESULTS.md


def document(results: Mapping[str, Result], drawn: Set[str]) -> str:
    """Required against reached, then every figure; `drawn` are the scenarios with a plot."""
    return "\n".join(_lines(results, drawn)) + "\n"


def _lines(results: Mapping[str, Result], drawn: Set[str]) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield from _INTRODUCTION
    yield ""
    yield "## Required and reached"
    yield ""
    yield "| | case: figure | required | reached | | stretch |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield from _judged(results)
    for name, result in results.items():
        yield from _scenario(name, result, drawn)


_INTRODUCTION = (
    "Written by `python -m benchmarks` from the files in `results/`. Ratios are medians over rounds in",
    "which every contestant was measured once, one after the other. The *same-rows floor* is a bare driver",
    "that writes the very rows that the engine writes; the *minimal floor* is the leanest job table known.",
)


def _judged(results: Mapping[str, Result]) -> Iterator[str]:
    for row in targets.ROWS:
        name = row.name
        for check in row.checks:
            stretch = "" if check.stretch is None else show(check.stretch)
            if stretch:
                stretch += {None: "", True: " met", False: " missed"}[check.is_stretch_met(results)]
            verdict = {None: "?", True: "met", False: "**missed**"}[check.is_met(results)]
            figure = f"{check.case}: {_figure(check)}"
            yield f"| {name} | {figure} | {check.wanted} | {check.reached(results)} | {verdict} | {stretch} |"
            name = ""


def _figure(check: targets.Check) -> str:
    return check.figure if check.contestant == ENGINE else f"{check.contestant}, {check.figure}"


def _scenario(name: str, result: Result, drawn: Set[str]) -> Iterator[str]:
    about = result.about
    versions = ", ".join(f"{what} {which}" for what, which in about["versions"].items())
    yield ""
    yield f"## {name}"
    yield ""
    yield f"What: {SCENARIOS[name].about}. Rounds: {about['repeats']}. When: {about['time']}."
    yield f"Commit: {about['commit']}. Command: `{about['command']}`."
    yield f"Machine: {about['machine']}, {about['system']}, load {about['load']} before."
    yield f"Versions: {versions}."
    if name in drawn:
        yield ""
        yield f"![{name}](results/{name}.svg)"
    note = NOTES / f"{name}.md"
    if note.exists():
        yield ""
        yield from note.read_text().splitlines()
    for case in result.figures:
        yield ""
        yield f"**{case}**"
        yield ""
        yield "| | | min | median | max | ÷ floor | engine ÷ |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
        for row in _rows(result, case):
            yield f"| {' | '.join(row)} |"
    if result.failed:
        yield ""
        yield f"Failed at least once: {'; '.join(result.failed)}."
