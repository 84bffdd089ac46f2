"""The plots of the README and of RESULTS.md, as SVG. Needs matplotlib (`pip install task-engine[bench]`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import ENGINE, FLOOR, MINIMAL, Result, show
from benchmarks.scenarios import drain, latency, submit

_COLOURS = {ENGINE: "#2f6fb7", FLOOR: "#9aa5b1", MINIMAL: "#cbd2d9"}
_PEER = "#e0a458"


def draw(results: Mapping[str, Result], folder: Path) -> None:
    """Draw what the results allow, into `<scenario>.svg`."""
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "task-engine",  # the same figures give the same file
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    drawn = {
        "drain": _bars(
            results.get("drain"),
            [drain.case("postgres", n) for n in (1, 2, 4)] + [drain.ONE_PROCESS],
            "tasks/s",
        ),
        "dag": _bars(
            results.get("dag"), ["postgres, 1 worker process", "sqlite, 1 worker process"], "tasks/s"
        ),
        "latency": _bars(
            results.get("latency"), [latency.idle("postgres"), latency.ONE_PROCESS], "from call p50 ms"
        ),
        "submit": _bars(
            results.get("submit"), [submit.sdk_bulk("postgres"), submit.sdk_bulk("sqlite")], "tasks/s"
        ),
        "held_snapshot": _bars(results.get("held_snapshot"), ["postgres"], "kept"),
        "memory": _memory(results.get("memory")),
    }
    for name, figure in drawn.items():
        if figure is not None:
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def _bars(result: Result | None, cases: list[str], figure: str) -> Figure | None:
    """A panel per case: medians as bars, the range from least to most as a line."""
    if result is None:
        return None
    measured = [
        case
        for case in cases
        if any(result.spread(case, name, figure) for name in result.figures.get(case, {}))
    ]
    if not measured:
        return None
    drawn = Figure(figsize=(7.5, 0.4 + sum(0.5 + 0.22 * len(result.figures[case]) for case in measured)))
    heights = [len(result.figures[case]) for case in measured]
    panels = drawn.subplots(len(measured), 1, squeeze=False, height_ratios=heights)
    for case, [panel] in zip(measured, panels, strict=True):
        _panel(panel, result, case, figure)
    drawn.tight_layout()
    return drawn


def _panel(panel: Axes, result: Result, case: str, figure: str) -> None:
    spreads = {name: spread for name in result.figures[case] if (spread := result.spread(case, name, figure))}
    for name, spread in spreads.items():
        panel.barh(
            name, spread.median, color=_COLOURS.get(name, _COLOURS[ENGINE] if ENGINE in name else _PEER)
        )
        panel.plot([spread.least, spread.most], [name, name], color="black", linewidth=1)
        panel.annotate(f" {show(spread.median)}", (max(spread.most, spread.median), name), va="center")
    panel.set_title(f"{case} — {figure}", loc="left", fontsize=9)
    panel.invert_yaxis()
    panel.margins(x=0.12)


def _memory(result: Result | None) -> Figure | None:
    """Resident memory over the number of tasks, a line for each process."""
    if result is None:
        return None
    drawn = Figure(figsize=(7.5, 3))
    panel = drawn.subplots()
    for case in result.figures:
        points: dict[str, list[tuple[int, float]]] = {}
        for name in result.names(case, ENGINE):
            found = re.match(r"(\w+) MiB at ([\d,]+)", name)
            spread = result.spread(case, ENGINE, name)
            if found and spread:
                points.setdefault(found[1], []).append((int(found[2].replace(",", "")), spread.median))
        for process, line in points.items():
            panel.plot(*zip(*line, strict=True), marker="o", markersize=3, label=f"{process}, {case}")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("tasks submitted (server), done (worker)")
    panel.set_ylabel("resident MiB")
    panel.legend(frameon=False)
    return drawn
