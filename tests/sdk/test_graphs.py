"""Graphs out of dictionaries, and what is refused before a database sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import engine
from engine.errors import GraphError, TooLarge
from engine.model.graph import Graph, TaskSpec
from engine.sdk.checks import checked
from engine.sdk.requests import SubmitOne


def one(**fields: Any) -> Graph:
    return Graph((TaskSpec(**{"name": "a", "kind": "noop", **fields}),))


def test_a_dictionary_says_what_a_spec_says() -> None:
    written = engine.graph(
        [
            TaskSpec("a", "noop"),
            {
                "name": "b",
                "kind": "shell",
                "params": {"command": "true"},
                "depends_on": ["a", {"name": "c", "condition": "yes"}, engine.Dependency("d")],
                "rule": "all_done",
                "priority": "high",
                "retry": {"max_attempts": 3, "backoff": "fixed"},
                "timeout_ms": 5,
            },
        ],
        name="n",
        labels={"l": "1"},
    )
    assert written == engine.Graph(
        (
            TaskSpec("a", "noop"),
            TaskSpec(
                "b",
                "shell",
                {"command": "true"},
                (engine.Dependency("a"), engine.Dependency("c", "yes"), engine.Dependency("d")),
                rule=engine.Rule.ALL_DONE,
                priority=10,
                retry=engine.RetryPolicy(max_attempts=3, backoff=engine.Backoff.FIXED),
                timeout_ms=5,
            ),
        ),
        name="n",
        labels={"l": "1"},
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "a"}, "a dictionary with `name` and `kind`"),
        ("a", "a dictionary with `name` and `kind`"),
        ({"name": "a", "kind": "noop", "after": []}, "unknown field after .accepted: name, kind"),
        ({"name": "a", "kind": "noop", "depends_on": "b"}, "a list of names"),
        ({"name": "a", "kind": "noop", "depends_on": [{"nam": "b"}]}, "nam"),
        ({"name": "a", "kind": "noop", "rule": "sometimes"}, "sometimes"),
        ({"name": "a", "kind": "noop", "priority": "highest"}, "highest"),
        ({"name": "a", "kind": "noop", "retry": {"max": 3}}, "max"),
    ],
)
def test_a_wrong_dictionary_is_explained(task: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        engine.graph([task])


NESTED: Any = []
for _ in range(70):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "wrong",
    [
        one(name=7),
        one(name="a\n"),
        one(kind=None),
        one(kind="x" * 201),
        one(queue=""),
        one(queue="q\x00"),
        one(params=object()),
        one(params={"a": float("inf")}),
        one(params={1: "a"}),
        one(params=2**64),
        one(params="\ud800"),
        one(params=NESTED),
        one(client={"a": b"bytes"}),
        one(depends_on=("b",)),
        one(depends_on=(engine.Dependency("a\x00"),)),
        one(depends_on=(engine.Dependency("b", "\x00"),)),
        one(rule="all_done"),
        one(priority="high"),
        one(priority=2**31),
        one(priority=True),
        one(delay_ms=-1),
        one(delay_ms=2**31),
        one(delay_ms=1.5),
        one(timeout_ms=0),
        one(available_at=datetime(2026, 1, 1)),
        one(available_at="2026-01-01"),
        one(available_at=datetime.max.replace(tzinfo=UTC)),
        one(retry={"max_attempts": 2}),
        one(retry=engine.RetryPolicy(max_attempts=0)),
        one(retry=engine.RetryPolicy(factor=float("nan"))),
        one(retry=engine.RetryPolicy(jitter=2)),
        one(retry=engine.RetryPolicy(backoff="fixed")),  # type: ignore[arg-type]
        Graph(({"name": "a", "kind": "noop"},)),  # type: ignore[arg-type]
        Graph((TaskSpec("a", "noop"),), name=""),
        Graph((TaskSpec("a", "noop"),), name="\x00"),
        Graph((TaskSpec("a", "noop"),), labels={"": "a"}),
        Graph((TaskSpec("a", "noop"),), labels={"a": 1}),  # type: ignore[dict-item]
        Graph((TaskSpec("a", "noop"),), labels={"a": "\x00"}),
        Graph((TaskSpec("a", "noop"),), labels=[]),  # type: ignore[arg-type]
        [TaskSpec("a", "noop")],
        None,
    ],
)
def test_what_a_database_would_refuse_is_refused_before(wrong: Any) -> None:
    with pytest.raises(GraphError):
        checked(wrong)


def test_large_parameters_are_too_large() -> None:
    checked(one(params="x" * (256 * 1024 - 2)))
    with pytest.raises(TooLarge, match="params has 262145 bytes"):
        checked(one(params="x" * (256 * 1024 - 1)))


def test_equal_graphs_have_equal_fingerprints_and_others_do_not() -> None:
    def fingerprint(graph: Graph) -> str:
        key = SubmitOne.of(graph, key="k").key
        assert key is not None
        return key.fingerprint

    first = one(params={"a": 1, "b": 2})
    assert fingerprint(first) == fingerprint(one(params={"b": 2, "a": 1}))
    assert fingerprint(one(retry=engine.RetryPolicy())) == fingerprint(one())
    assert fingerprint(one())[:8] == "eb8ded2e"  # stored in databases: must not change with a release
    different = [one(), one(params=0), one(params=False), one(queue="q"), one(timeout_ms=1), one(kind="x")]
    assert len({fingerprint(graph) for graph in [first, *different]}) == 7
