"""For the tests of programs that use the engine. Names are loaded when first used: pytest looks in here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import load_when_used

if TYPE_CHECKING:
    from engine.testing.blocking import SyncHarness as SyncHarness
    from engine.testing.clock import VirtualClock as VirtualClock
    from engine.testing.databases import FreshDatabases as FreshDatabases
    from engine.testing.ended import Ended as Ended
    from engine.testing.ended import TaskFailed as TaskFailed
    from engine.testing.graphs import run_graph as run_graph
    from engine.testing.harness import Harness as Harness
    from engine.testing.harness import Stalled as Stalled
    from engine.testing.workflows import run_workflow as run_workflow

_HOMES = {
    "engine.testing.blocking": ("SyncHarness",),
    "engine.testing.clock": ("VirtualClock",),
    "engine.testing.databases": ("FreshDatabases",),
    "engine.testing.ended": ("Ended", "TaskFailed"),
    "engine.testing.graphs": ("run_graph",),
    "engine.testing.harness": ("Harness", "Stalled"),
    "engine.testing.workflows": ("run_workflow",),
}

__getattr__, __dir__ = load_when_used(__name__, _HOMES)
