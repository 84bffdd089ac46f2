"""How tables look where there is little room."""

from __future__ import annotations

import io

import pytest

from engine.cli import output
from engine.cli.output import show_table

COLUMNS = ("ID", "NAME", "WORKFLOW_ID", "CRON", "ZONE", "STATE", "NEXT")
ROW = (
    "sch-wf-2345abcdefgh",
    "nightly orders of all shops",
    "wf-2345abcdefgh",
    "0 30 8 * * MON-FRI",
    "Europe/Berlin",
    "enabled",
    "2026-11-23 08:30:00 +0100",
)


@pytest.mark.parametrize("width", [200, 80, 40, 20])
def test_ids_stay_whole_and_the_rest_gives_way(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    terminal = output._Console(file=out, width=width, soft_wrap=True, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", lambda: terminal)
    show_table(COLUMNS, [ROW])
    header, *lines = out.getvalue().splitlines()
    assert header.split() == list(COLUMNS)
    assert any(line.startswith(f"{ROW[0]} ") and f" {ROW[2]} " in line for line in lines)
    assert max(map(len, lines)) <= max(width, 80)
