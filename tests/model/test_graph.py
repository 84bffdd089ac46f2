"""The rules of a graph: which breach is reported first, and in which words (ExecGo contract, section 2.1)."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from datetime import UTC, datetime
from time import process_time

import pytest

from engine.errors import GraphError, TooLarge
from engine.model import graph as module
from engine.model.graph import Dependency, Graph, TaskSpec, plan, priority_level
from tests.factories import graph, spec


def refusal(*tasks: TaskSpec) -> str:
    with pytest.raises(GraphError) as caught:
        plan(Graph(tasks))
    return str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((), "task graph is empty"),
        ((spec(""),), "task id is required"),
        ((spec(" \t"),), "task id is required"),
        ((spec("a", kind=""),), 'task "a": type is required'),
        (
            (spec("a", available_at=datetime(2026, 1, 1, tzinfo=UTC), delay_ms=1),),
            'task "a": available_at and delay_ms cannot be given together',
        ),
        ((spec("a"), spec("a")), 'duplicate task id: "a"'),
        ((spec("a", "ghost"),), 'task "a" depends on unknown task "ghost"'),
        ((spec("a", "a"),), 'task "a" cannot depend on itself'),
        ((spec("a", "b"), spec("b", "a")), "cycle detected in task graph"),
        ((spec("a", "c"), spec("b", "a"), spec("c", "b"), spec("d")), "cycle detected in task graph"),
    ],
)
def test_each_breach_has_its_words(tasks: tuple[TaskSpec, ...], message: str) -> None:
    assert refusal(*tasks) == message


def test_the_first_breach_wins_in_the_order_of_the_contract() -> None:
    # From the last check to the first, one fault more each time.
    cycle = [spec("x", "y"), spec("y", "x")]
    assert refusal(*cycle) == "cycle detected in task graph"
    itself = [*cycle, spec("s", "s")]
    assert refusal(*itself) == 'task "s" cannot depend on itself'
    unknown = [spec("u", "nobody"), *itself]
    assert refusal(*unknown) == 'task "u" depends on unknown task "nobody"'
    duplicate = [*unknown, spec("u")]
    assert refusal(*duplicate) == 'duplicate task id: "u"'
    no_type = [spec("k", kind=" "), *duplicate]
    assert refusal(*no_type) == 'task "k": type is required'
    no_name = [spec("", kind=""), *no_type]
    assert refusal(*no_name) == "task id is required"


def test_one_task_is_checked_whole_before_the_next() -> None:
    assert refusal(spec("a", kind=""), spec("")) == 'task "a": type is required'
    assert refusal(spec("a"), spec("a", kind="")) == 'task "a": type is required'
    assert refusal(spec("a", "a", "ghost")) == 'task "a" cannot depend on itself'


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "\ud800", "a\u2028b", "\x1b[31m", "👩\u200d🔬"])
def test_names_without_control_characters(name: str) -> None:
    assert "which is not printable" in refusal(spec(name))


def test_what_cannot_be_seen_in_a_name_is_told() -> None:
    assert "contains U+200D (zero width joiner), which is not printable" in refusal(spec("👩\u200d🔬"))
    assert "contains U+0007 (control character), which is not printable" in refusal(spec("a\x07"))


def test_names_of_up_to_200_characters_in_any_script() -> None:
    plan(Graph((spec("名" * 200), spec("ü é – 🙂"))))
    assert "201 characters, the limit is 200" in refusal(spec("n" * 201))


def test_a_repeated_dependency_is_one_edge() -> None:
    checked = plan(Graph((spec("a"), spec("b", "a", "a", "a"))))
    assert checked.edges == [(0, 1, None)]
    assert checked.waiting_on == [0, 1]


def test_one_dependency_cannot_have_two_conditions() -> None:
    twice = spec("b", Dependency("a", "x"), Dependency("a", "y"))
    assert "under two different conditions" in refusal(spec("a"), twice)


def test_a_plan_counts_the_upstreams_of_each_task() -> None:
    checked = plan(graph("a -> b, c -> d; e"))
    assert [task.name for task in checked.graph.tasks] == ["a", "b", "c", "d", "e"]
    assert checked.edges == [(0, 1, None), (0, 2, None), (1, 3, None), (2, 3, None)]
    assert checked.waiting_on == [0, 1, 1, 2, 0]


def test_published_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TASKS", 3)
    monkeypatch.setattr(module, "MAX_EDGES", 2)
    with pytest.raises(TooLarge, match="4 tasks, the limit is 3"):
        plan(graph("a; b; c; d"))
    with pytest.raises(TooLarge, match="more than 2 edges"):
        plan(Graph((spec("a"), spec("b", "a"), spec("c", "a", "b"))))


@pytest.mark.parametrize("shape", ["chain", "backward chain", "star", "fan-in"])
def test_100_000_tasks_are_checked_quickly_and_without_recursion(shape: str) -> None:
    size = 100_000
    match shape:
        case "chain":
            tasks = [spec(f"t{i}", *([f"t{i - 1}"] if i else [])) for i in range(size)]
        case "backward chain":
            tasks = [spec(f"t{i}", *([f"t{i + 1}"] if i < size - 1 else [])) for i in range(size)]
        case "star":
            tasks = [spec("t0"), *(spec(f"t{i}", "t0") for i in range(1, size))]
        case _:
            tasks = [*(spec(f"t{i}") for i in range(1, size)), spec("t0", *(f"t{i}" for i in range(1, size)))]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    began = process_time()
    try:
        checked = plan(Graph(tuple(tasks)))
    finally:
        sys.setrecursionlimit(limit)
    assert process_time() - began < 5
    assert len(checked.edges) == size - 1


def test_a_cycle_behind_100_000_tasks_is_found() -> None:
    tasks = [spec(f"t{i}", *([f"t{i - 1}"] if i else [])) for i in range(99_998)]
    assert refusal(*tasks, spec("x", "t99997", "y"), spec("y", "x")) == "cycle detected in task graph"


def test_the_order_of_tasks_does_not_matter_to_the_verdict() -> None:
    tasks = list(graph("a -> b, c -> d -> e; b -> e").tasks)
    for seed in range(20):
        random.Random(seed).shuffle(tasks)
        plan(Graph(tuple(tasks)))
        closed = [replace(t, depends_on=(Dependency("e"),)) if t.name == "a" else t for t in tasks]
        assert refusal(*closed) == "cycle detected in task graph"


def test_priorities_are_words_or_numbers() -> None:
    words = ["low", "medium", "high", "urgent"]
    assert [priority_level(word) for word in words] == sorted(priority_level(word) for word in words)
    assert priority_level(-1_000) == -1_000 and priority_level(1_000) == 1_000
    for wrong in ("huge", 1_001, -1_001):
        with pytest.raises(GraphError, match=str(wrong)):
            priority_level(wrong)
