"""What is measured: one module a topic."""

from __future__ import annotations

from benchmarks.scenarios import (
    cost,
    dag,
    depth,
    drain,
    floors,
    held_snapshot,
    latency,
    memory,
    recovery,
    shapes,
    stream,
    submit,
)
from benchmarks.scenarios.base import Scenario

_ALL = (
    floors.SCENARIO,
    drain.SCENARIO,
    dag.SCENARIO,
    shapes.CHAIN,
    shapes.FAN,
    latency.SCENARIO,
    submit.SCENARIO,
    held_snapshot.SCENARIO,
    depth.SCENARIO,
    cost.SCENARIO,
    stream.SCENARIO,
    recovery.SCENARIO,
    memory.SCENARIO,
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
