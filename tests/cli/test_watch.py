"""Events of a run as lines."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from engine.cli.watch import LineView, Progress
from engine.model.records import Event, Run
from engine.model.states import Move, RunState

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN = Run(1, RunState.RUNNING, None, {}, NOW, NOW, None, False, 1, 2, 1, 0, 0, 0, 0)


def line_of(kind: str, detail: dict[str, Any] | None) -> str:
    """What a view prints of one event, without its time."""
    out = io.StringIO()
    progress = Progress(RUN)
    event = Event(1, 1, kind, 1, "load", 1, NOW, "local", detail)
    LineView(Console(file=out, width=1000)).show(progress, progress.take([event]))
    return out.getvalue().partition(" ")[2].rstrip()


@pytest.mark.parametrize(
    ("kind", "detail", "line"),
    [
        (Move.RETRY, {"outcome": "failed", "error": "no"}, "failed, will retry load  [0/2]  no"),
        (
            Move.RETRY,
            {"outcome": "crashed", "error": "worker lost"},
            "interrupted (worker lost), will be repeated load  [0/2]",
        ),
        (
            Move.RETRY_HELD,
            {"outcome": "released"},
            "interrupted (worker stopped), will be repeated load  [0/2]",
        ),
        (Move.FAIL, {"outcome": "crashed", "error": "worker lost"}, "failed     load  [0/2]  worker lost"),
        (Move.CANCEL, {"outcome": "cancelled", "error": "context canceled"}, "cancelled  load  [0/2]"),
        (Move.SUCCEED, None, "succeeded  load  [0/2]"),
    ],
)
def test_a_line_says_how_an_attempt_ended(kind: str, detail: dict[str, Any] | None, line: str) -> None:
    assert line_of(kind, detail) == line
