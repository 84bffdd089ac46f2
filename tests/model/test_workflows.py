"""Workflows as values: constructors, the stored document, and the rules."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from engine.errors import MAX_FAULTS, WorkflowError
from engine.model.graph import Rule
from engine.model.parameters import Param, ParamType
from engine.model.realtime import Endpoint, RealtimeMode, RealtimeTask, Reconnect, Subscription
from engine.model.workflow_rules import Checks, check, faults
from engine.model.workflows import (
    Callback,
    CallbackState,
    Mode,
    UndoFunction,
    Workflow,
    WorkflowTask,
)
from tests.support.workflows import workflows


def task(name: str, *depends_on: str, **fields: Any) -> WorkflowTask:
    return WorkflowTask(name, **{"function": "f", "depends_on": depends_on, **fields})


def told(workflow: Workflow, checks: Checks | None = None) -> list[str]:
    return [str(fault) for fault in faults(workflow, checks or Checks())]


# --- constructors


def test_constructors_take_lists_words_and_plain_values() -> None:
    failed: dict[str, Any] = {"state": "failed", "function": "f"}
    words: dict[str, Any] = {"rule": "always", "callbacks": [Callback(**failed)]}
    types: dict[str, Any] = {"type": "string"}
    mode: Any = "streaming"
    plain = Workflow(
        "w",
        mode=mode,
        params={"region": "eu", "day": Param(**types)},
        tasks=[WorkflowTask("a", depends_on=["x", "y", "x"], **words)],
    )
    assert plain == Workflow(
        "w",
        mode=Mode.STREAMING,
        params={"region": Param("eu"), "day": Param(type=ParamType.STRING)},
        tasks=(
            WorkflowTask(
                "a",
                rule=Rule.ALWAYS,
                depends_on=("x", "y"),
                callbacks=(Callback(CallbackState.FAILED, "f"),),
            ),
        ),
    )
    assert type(plain.mode) is Mode and type(plain.tasks[0].rule) is Rule


def test_an_empty_workflow_is_valid() -> None:
    check(Workflow("w"))


# --- the stored document


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_stored_and_read_back(workflow: Workflow) -> None:
    stored = json.dumps(workflow.to_json())
    found = Workflow.from_json(json.loads(stored))
    assert found == workflow
    assert json.dumps(found.to_json()) == stored


def test_defaults_are_not_stored() -> None:
    assert Workflow("w").to_json() == {"format": 1, "name": "w"}
    assert Workflow("w", tasks=[WorkflowTask("a", function="f")]).to_json() == {
        **{"format": 1, "name": "w", "tasks": [{"name": "a", "function": "f"}]}
    }


def test_documents_of_the_first_format_are_read_for_ever() -> None:
    document = {
        "format": 1,
        "name": "w",
        "params": {"region": {"default": "eu"}},
        "tasks": [
            {"name": "load", "function": "f", "timeout_ms": 45000},
            {
                "name": "book",
                "kind": "http",
                "params": {"url": "x"},
                "depends_on": ["load"],
                "rule": "all_done",
                "callbacks": [{"state": "failed", "function": "page"}],
                "compensation": {"function": "undo"},
                "limits": {"api": 3},
            },
        ],
        "realtime_tasks": [{"name": "r", "function": "f", "endpoint": {"url": "x", "protocol": "ws"}}],
        "cron": "@daily",
    }
    assert Workflow.from_json(document).to_json() == document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"format": 2, "name": "w"},
            "format: is 2, accepted: 1 to 1; a newer release of Task Engine wrote it",
        ),
        ({"name": "w"}, "format: is None, accepted: 1 to 1"),
        ([], "format: is None, accepted: 1 to 1"),
        ({"format": 1}, "name: is required"),
        ({"format": 1, "name": "w", "shiny": True}, "shiny: unknown key"),
        (
            {"format": 1, "name": "w", "tasks": [{"name": "a", "only_if": "x"}]},
            "tasks[0].only_if: unknown key",
        ),
        (
            {"format": 1, "name": "w", "tasks": [{"name": "a", "rule": "two_thirds"}]},
            "tasks[0].rule: expected one of all_success, all_done, one_failed, none_failed, always, "
            "got text 'two_thirds'",
        ),
    ],
)
def test_a_document_of_a_newer_release_is_refused_clearly(document: Any, message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_json(document)
    assert str(caught.value) == message


# --- rules


@pytest.mark.parametrize(
    ("workflow", "found"),
    [
        (Workflow(""), ["name: workflow name is required"]),
        (
            Workflow("a\nb"),
            ["name: workflow name 'a\\nb' contains U+000A (control character), which is not printable"],
        ),
        (Workflow("w", tasks=[task("")]), ["tasks[0].name: task name is required"]),
        (Workflow("w", tasks=[task("a"), task("a")]), ['tasks[1].name: duplicate task name "a"']),
        (
            Workflow("w", tasks=[task("a")], realtime_tasks=[RealtimeTask("a", function="f")]),
            ['realtime_tasks[0].name: duplicate task name "a"'],
        ),
        (
            Workflow("w", tasks=[task("loaded"), task("b", "load")]),
            ['tasks[1].depends_on[0]: unknown task "load"; did you mean "loaded"?'],
        ),
        (
            Workflow("w", tasks=[task("a", "a")]),
            ['tasks[0].depends_on[0]: task "a" cannot depend on itself'],
        ),
        (
            Workflow("w", tasks=[task("x"), task("a", "x", "c"), task("b", "a"), task("c", "b")]),
            ["tasks[1].depends_on: cycle: a → b → c → a"],
        ),
        (
            Workflow("w", transactional=True, sub_task_error_tolerance=0.1),
            ["transactional: needs sub_task_error_tolerance 0"],
        ),
        (
            Workflow("w", cron="x", timezone="Mars"),
            [
                "cron: 'x': cron expression has 1 fields (accepted: six, second minute hour day month "
                "weekday, or five without the second)",
                "timezone: unknown time zone 'Mars' (accepted: IANA names such as UTC or Europe/Berlin)",
            ],
        ),
        (Workflow("w", cron="x"), None),
        (Workflow("w", cron="0 0 30 2 *"), None),
        (
            Workflow("w", params={"a": Param("x", required=True), "b": Param(1, type=ParamType.STRING)}),
            [
                "params.a.default: a required parameter has no default",
                "params.b.default: expected string, got an integer 1",
            ],
        ),
        (Workflow("w", labels={"a": "x\x00"}), ["labels.a: text contains the NUL character"]),
        (
            Workflow("w", tasks=[task("a", params={"x": float("nan")})]),
            ["tasks[0].params: number is not finite"],
        ),
        (
            Workflow("w", tasks=[task("a", params={"x": "y" * 300_000})]),
            ["tasks[0].params: has 300008 bytes, the limit is 262144"],
        ),
        (
            Workflow("w", tasks=[WorkflowTask("a", kind="http", function="f")]),
            ["tasks[0].function: has no meaning for the kind 'http'"],
        ),
        (
            Workflow("w", tasks=[WorkflowTask("a", kind="http", params=[1], required_params=["x"])]),
            ["tasks[0].params: parameters of a function are an object, got a list"],
        ),
        (Workflow("w", tasks=[task("a", condition=" ")]), ["tasks[0].condition: is blank"]),
        (
            Workflow(
                "w",
                tasks=[
                    task("a", retry_count=1_000, retry_interval_ms=-1, timeout_ms=0, priority=5_000),
                ],
            ),
            [
                "tasks[0].timeout_ms: 0s is outside 1ms to 8760h",
                "tasks[0].retry_count: 1000 is outside 0 to 999",
                "tasks[0].retry_interval_ms: -1ms is outside 0s to 2147483647ms",
                "tasks[0].priority: 5000 is outside -1000 to 1000",
            ],
        ),
        (
            Workflow("w", tasks=[task("a", limits={"": 1, "k": 0})]),
            ['tasks[0].limits[""]: limit is required', "tasks[0].limits.k: 0 is outside 1 to 1000000"],
        ),
        (
            Workflow("w", tasks=[task("a", limits={f"k{i}": 1 for i in range(8)})]),
            ["tasks[0].limits: has 8 limits, at most 7 are possible"],
        ),
        (
            Workflow(
                "w",
                tasks=[
                    task("a", compensation=UndoFunction(""), callbacks=[Callback(CallbackState.FAILED, "")])
                ],
            ),
            [
                "tasks[0].compensation.function: function name is required",
                "tasks[0].callbacks[0].function: function name is required",
            ],
        ),
        (
            Workflow("w", realtime_tasks=[RealtimeTask("r", mode=RealtimeMode.CONTINUOUS)]),
            [
                "realtime_tasks[0].mode: continuous needs a workflow in streaming mode",
                "realtime_tasks[0].function: is required (or a data_handler, a collector or subscriptions)",
            ],
        ),
        (
            Workflow(
                "w",
                mode=Mode.STREAMING,
                realtime_tasks=[
                    RealtimeTask("k", mode=RealtimeMode.CONTINUOUS, data_handler="f"),
                    RealtimeTask("l", mode=RealtimeMode.CONTINUOUS, data_handler="f", collector="c"),
                    RealtimeTask("m", mode=RealtimeMode.EVENT_DRIVEN, data_handler="f"),
                    RealtimeTask("n", mode=RealtimeMode.CONTINUOUS, function="f"),  # it may yield
                ],
            ),
            [
                "realtime_tasks[0]: task 'k' has no source: give it an endpoint, a collector, a function "
                "that yields, or the event-driven mode",
            ],
        ),
        (
            Workflow(
                "w",
                realtime_tasks=[
                    RealtimeTask(
                        "r",
                        function="f",
                        buffer_size=10,
                        flush_interval_ms=0,
                        endpoint=Endpoint("", "ws"),  # type: ignore[arg-type]
                        reconnect=Reconnect(first_ms=5, max_ms=4, factor=0.5),
                        subscriptions=[Subscription("", "f")],
                    )
                ],
            ),
            [
                "realtime_tasks[0].batch_size: 100 is more than the buffer holds (10)",
                "realtime_tasks[0].flush_interval_ms: 0s is outside 1ms to 2147483647ms",
                "realtime_tasks[0].reconnect.max_ms: 4ms is outside 5ms to 2147483647ms",
                "realtime_tasks[0].reconnect.factor: 0.5 is outside 1 to 1000",
                "realtime_tasks[0].endpoint.url: is required",
                "realtime_tasks[0].subscriptions[0].event: event is required",
            ],
        ),
    ],
)
def test_each_rule_has_its_words(workflow: Workflow, found: list[str] | None) -> None:
    if found is not None:
        assert told(workflow) == found
        return
    (only,) = told(workflow)
    assert only.startswith(f"cron: {workflow.cron!r}: ")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"name": 5}, "name: expected text, got an integer 5"),
        ({"mode": "fast"}, "mode: expected one of batch, streaming, got text 'fast'"),
        ({"transactional": 1}, "transactional: expected true or false, got an integer 1"),
        ({"max_concurrent_task": "4"}, "max_concurrent_task: expected an integer, got text '4'"),
        ({"max_concurrent_task": True}, "max_concurrent_task: expected an integer, got a boolean"),
        ({"sub_task_error_tolerance": "0"}, "sub_task_error_tolerance: expected a number, got text '0'"),
        ({"params": ["x"]}, "params: expected an object, got a list"),
        ({"labels": {1: "x"}}, "labels: keys are text, got an integer 1"),
        ({"tasks": task("a")}, "tasks: expected a list, got an object"),
        ({"tasks": ["a"]}, "tasks[0]: expected an object (WorkflowTask), got text 'a'"),
        ({"tasks": [task("a", depends_on="b")]}, "tasks[0].depends_on: expected a list, got text 'b'"),
        ({"tasks": [task("a", depends_on=[1])]}, "tasks[0].depends_on[0]: expected text, got an integer 1"),
        ({"tasks": [task("a", retry_count="2")]}, "tasks[0].retry_count: expected an integer, got text '2'"),
        (
            {"tasks": [task("a", compensation="u")]},
            "tasks[0].compensation: expected an object (UndoFunction), got text 'u'",
        ),
        (
            {"tasks": [task("a", callbacks=[Callback("done", "f")])]},  # type: ignore[arg-type]
            "tasks[0].callbacks[0].state: expected one of success, failed, timeout, got text 'done'",
        ),
    ],
)
def test_wrong_types_are_told_with_their_place(fields: dict[str, Any], found: str) -> None:
    assert told(Workflow(**{"name": "w", **fields})) == [found]


def test_all_wrong_types_are_told_at_once() -> None:
    wrong: Any = Workflow("w", description=5, tasks=[task("a", priority="hihg"), task("b", queue=5)])  # type: ignore[arg-type]
    assert [line.partition(":")[0] for line in told(wrong)] == [
        *("description", "tasks[0].priority", "tasks[1].queue")
    ]


def test_the_error_tells_all_up_to_a_limit() -> None:
    with pytest.raises(WorkflowError) as caught:
        check(Workflow("w", tasks=[task("") for _ in range(500)]))
    lines = str(caught.value).splitlines()
    assert len(caught.value.faults) == MAX_FAULTS and len(lines) == MAX_FAULTS + 1
    assert lines[-1].startswith("… and ")


# --- references


def with_params(*references: str, depends_on: tuple[str, ...] = ("b",), **fields: Any) -> Workflow:
    asking = task("c", *depends_on, params={"p": list(references)}, **fields)
    return Workflow("w", params={"day": "x"}, tasks=[task("a"), task("b", "a"), asking, task("d", "c")])


def test_a_reference_names_an_upstream_task_however_far_up() -> None:
    assert (
        told(with_params("${{ tasks.a.result.x }}", "${{ tasks.b.result }}", "${{ params.day }}", "${any}"))
        == []
    )


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("${{ tasks.d.result }}", '"d" is not upstream of "c"'),
        ("${{ tasks.c.result }}", '"c" is not upstream of "c"'),
        ("${{ tasks.z.result }}", 'there is no task "z" (known: a, b, c, d)'),
        ("${{ params.dey }}", 'the workflow declares no such parameter; did you mean "day"?'),
        ("${{ tasks.a }}", "expected tasks.<name>.result"),
    ],
)
def test_other_references_are_refused(reference: str, words: str) -> None:
    assert told(with_params(reference)) == [f"tasks[2].params.p[0]: {reference}: {words}"]


def test_a_task_aside_is_not_upstream() -> None:
    found = told(with_params("${{ tasks.b.result }}", depends_on=("a",)))
    assert found == ['tasks[2].params.p[0]: ${{ tasks.b.result }}: "b" is not upstream of "c"']


def test_results_are_not_available_in_limits_compensations_and_realtime_tasks() -> None:
    text = "${{ tasks.a.result }}"
    workflow = replace(
        with_params(limits={f"k{text}": 1}, compensation=UndoFunction("u", {"x": text})),
        realtime_tasks=[RealtimeTask("r", function="f", depends_on=["a"], params={"x": text})],
    )
    assert [line.partition(": ")[0] for line in told(workflow)] == [
        "tasks[2].limits[0]",
        "tasks[2].compensation.params.x",
        "realtime_tasks[0].params.x",
    ]


def test_with_a_cycle_only_the_cycle_is_told() -> None:
    workflow = Workflow("w", tasks=[task("a", "b", params={"p": "${{ tasks.b.result }}"}), task("b", "a")])
    assert told(workflow) == ["tasks[0].depends_on: cycle: a → b → a"]


def test_what_only_the_program_knows() -> None:
    workflow = Workflow("w", tasks=[task("a", function="loda"), WorkflowTask("b", kind="htp")])
    assert told(workflow, Checks(functions={"load"}, kinds={"http"})) == [
        'tasks[0].function: unknown function "loda"; did you mean "load"?',
        'tasks[1].kind: unknown kind "htp"; did you mean "http"?',
    ]


def test_an_unknown_function_is_told_once() -> None:
    """Whoever performs functions would say it of the parameters again."""
    undone = UndoFunction("undo")
    workflow = Workflow(
        "w", tasks=[task("a", function="loda"), task("b", function="load", compensation=undone)]
    )
    checks = Checks(functions={"load"}, params=lambda kind, params: f"no {params['function']}")
    assert told(workflow, checks) == [
        'tasks[0].function: unknown function "loda"; did you mean "load"?',
        'tasks[1].compensation.function: unknown function "undo" (known: load)',
        "tasks[1].params: no load",
    ]


@pytest.mark.parametrize("far", [1, 10_000])
def test_20_000_references_are_checked_quickly(far: int) -> None:
    """Each task of a chain reads one that is `far` before it; a search for each would visit 10⁸ tasks."""
    tasks = [
        task(
            f"t{i}",
            *([f"t{i - 1}"] if i else []),
            params={"p": f"${{{{ tasks.t{i - far}.result }}}}"} if i >= far else None,
        )
        for i in range(20_000)
    ]
    began = time.process_time()
    assert told(Workflow("w", tasks=tasks)) == []
    assert time.process_time() - began < 20
