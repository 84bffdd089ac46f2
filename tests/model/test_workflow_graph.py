"""The graph of one run: kinds, parameters, retries and what is left for later."""

from __future__ import annotations

import pytest

from engine.errors import ParamsError, WorkflowError
from engine.model.graph import Compensation, Dependency, Graph, Limit, Rule, TaskSpec, plan
from engine.model.realtime import RealtimeMode, RealtimeTask, Subscription
from engine.model.retry import Backoff, RetryPolicy
from engine.model.run_defaults import RunDefaults
from engine.model.workflow_graph import graph_of, retry_policy
from engine.model.workflows import Mode, UndoFunction, Workflow, WorkflowTask


def test_a_workflow_as_a_graph() -> None:
    workflow = Workflow(
        "nightly",
        labels={"team": "orders"},
        tasks=[
            WorkflowTask("load", function="load_orders", params={"day": "${day}", "limit": "${limit}"}),
            WorkflowTask(
                "call",
                kind="http",
                params={"url": "http://x/${day}", "body": "${{ tasks.load.result }}"},
                depends_on=["load"],
                rule=Rule.ALL_DONE,
                condition="tasks.load.result.ok",
                timeout_ms=500,
                retry_count=2,
                retry_interval_ms=5_000,
                queue="slow",
                priority=10,
                limits={"api": 3, "region-${region}": 1},
                required_params=["x"],
                result_mapping={"x": "y"},
                compensation=UndoFunction("undo", {"day": "${day}"}),
            ),
        ],
    )
    params = {"day": "monday", "limit": 10, "region": "eu"}
    fixed = RetryPolicy(3, backoff=Backoff.FIXED, initial_ms=5_000, max_ms=5_000, jitter=0)
    reference = {"text": "${{ tasks.load.result }}", "task": "load", "steps": []}
    assert graph_of(workflow, params) == Graph(
        name="nightly",
        labels={"team": "orders"},
        tasks=(
            TaskSpec(
                "load",
                "function",
                {"function": "load_orders", "params": {"day": "monday", "limit": 10}},
                timeout_ms=30_000,
            ),
            TaskSpec(
                "call",
                "http",
                {"url": "http://x/monday", "body": "${{ tasks.load.result }}"},
                depends_on=(Dependency("load"),),
                rule=Rule.ALL_DONE,
                queue="slow",
                priority=10,
                timeout_ms=500,
                retry=fixed,
                inputs={
                    "references": [{"at": ["body"], "parts": [reference]}],
                    "mapping": {"x": "y"},
                    "required": ["x"],
                    "depends_on": ["load"],
                    "condition": "tasks.load.result.ok",
                    "at": [],
                },
                compensation=Compensation(
                    "function", {"function": "undo", "params": {"day": "monday"}}, 500, fixed
                ),
                limits=(Limit("api", 3), Limit("region-eu", 1)),
            ),
        ),
    )
    plan(graph_of(workflow, params))


def test_all_missing_parameters_are_told_with_their_first_place() -> None:
    workflow = Workflow(
        "w",
        tasks=[
            WorkflowTask("a", function="f", params={"x": "${day}", "y": ["${region}"]}),
            WorkflowTask("b", function="f", params={"x": "${day}"}, limits={"${key}": 1}),
            WorkflowTask("c", function="f", compensation=UndoFunction("u", {"z": "${undo}"})),
        ],
    )
    with pytest.raises(ParamsError) as caught:
        graph_of(workflow)
    assert str(caught.value) == (
        "missing parameters: day (tasks[0].params.x), region (tasks[0].params.y[0]), "
        "key (tasks[1].limits[0]), undo (tasks[2].compensation.params.z)"
    )


def test_a_path_into_a_parameter_that_leads_nowhere() -> None:
    workflow = Workflow("w", tasks=[WorkflowTask("a", function="f", params={"x": "${{ params.day.x }}"})])
    with pytest.raises(ParamsError, match=r"^tasks\[0\].params.x: \$\{\{ params.day.x \}\}: the parameter"):
        graph_of(workflow, {"day": 1})


def test_an_unchecked_placeholder_is_refused_with_its_place() -> None:
    workflow = Workflow("w", tasks=[WorkflowTask("a", function="f", params={"x": "${{ 1 }}"})])
    with pytest.raises(WorkflowError, match=r"^tasks\[0\].params: \$\{\{ 1 \}\}: expected"):
        graph_of(workflow)


def test_retries_double_up_to_a_limit_or_wait_as_long_as_they_are_told() -> None:
    doubling = retry_policy(5, None)
    assert doubling.max_attempts == 6
    assert [doubling.delay_ms(n) for n in range(1, 6)] == [1_000, 2_000, 4_000, 5_000, 5_000]
    longer = retry_policy(5, None, RunDefaults(max_retry_delay_ms=60_000))
    assert [longer.delay_ms(n) for n in range(1, 6)] == [1_000, 2_000, 4_000, 8_000, 16_000]
    fixed = retry_policy(2, 120_000)
    assert [fixed.delay_ms(n) for n in (1, 2)] == [120_000, 120_000]
    assert retry_policy(1, 0).delay_ms(1) == 0
    assert retry_policy(0, 5_000) == RetryPolicy()


def test_the_engine_s_defaults_can_be_given() -> None:
    workflow = Workflow("w", tasks=[WorkflowTask("a", function="f", retry_count=9)])
    defaults = RunDefaults(timeout_ms=60_000, retry_delay_ms=3_000, max_retry_delay_ms=8_000)
    (spec,) = graph_of(workflow, defaults=defaults).tasks
    assert spec.timeout_ms == 60_000
    assert [spec.retry.delay_ms(n) for n in (1, 2, 3, 9)] == [3_000, 6_000, 8_000, 8_000]


def test_tasks_that_ask_for_no_retries_get_those_of_the_engine() -> None:
    workflow = Workflow(
        "w",
        mode=Mode.STREAMING,
        tasks=[
            WorkflowTask("a", function="f", compensation=UndoFunction("u")),
            WorkflowTask("b", function="f", retry_count=1),
            WorkflowTask("c", function="f", retry_interval_ms=7),
        ],
        realtime_tasks=[RealtimeTask("r", function="f")],
    )
    a, b, c, r = graph_of(workflow, defaults=RunDefaults(retry_count=2)).tasks
    assert [spec.retry.max_attempts for spec in (a, b, c, r)] == [3, 2, 3, 1]
    assert a.compensation is not None and a.compensation.retry.max_attempts == 3
    assert c.retry.delay_ms(2) == 7


def test_a_workflow_s_own_limit_is_the_first_of_every_task() -> None:
    workflow = Workflow(
        "w",
        max_concurrent_task=4,
        tasks=[WorkflowTask("a", function="f", limits={"api": 1}), WorkflowTask("b", kind="noop")],
        realtime_tasks=[RealtimeTask("r", function="f")],
    )
    limits = [spec.limits for spec in graph_of(workflow, concurrency_key="workflow wf-1").tasks]
    own = Limit("workflow wf-1", 4)
    assert limits == [(own, Limit("api", 1)), (own,), (own,)]


def test_realtime_tasks_are_described_whole() -> None:
    task = RealtimeTask(
        "r",
        "not for the worker",
        function="take",
        params={"topic": "${topic}"},
        depends_on=["a"],
        retry_count=1,
        batch_size=5,
        subscriptions=[Subscription("data.arrived", "f")],
    )
    endless = RealtimeTask("s", function="take", mode=RealtimeMode.CONTINUOUS)
    limited = RealtimeTask("t", function="take", mode=RealtimeMode.CONTINUOUS, timeout_ms=1_000)
    workflow = Workflow("w", tasks=[WorkflowTask("a", function="f")], realtime_tasks=[task, endless, limited])
    _, one, other, third = graph_of(workflow, {"topic": "orders"}).tasks
    assert (one.kind, one.timeout_ms, one.retry.max_attempts) == ("realtime", 30_000, 2)
    assert one.params == {
        "function": "take",
        "params": {"topic": "orders"},
        "batch_size": 5,
        "subscriptions": [{"event": "data.arrived", "function": "f"}],
    }
    assert other.timeout_ms is None and third.timeout_ms == 1_000


def test_an_empty_workflow_has_an_empty_graph() -> None:
    assert graph_of(Workflow("w")) == Graph((), name="w")
