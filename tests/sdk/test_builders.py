"""Builders say what constructors and YAML say, in the words of the task-engine contract."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from engine.errors import GraphError, InvalidInput, WorkflowError
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Rule
from engine.model.parameters import Param
from engine.model.realtime import (
    Backpressure,
    CollectorMode,
    Endpoint,
    Pressure,
    Protocol,
    RealtimeMode,
    RealtimeTask,
    RealtimeType,
    Reconnect,
    Subscription,
)
from engine.model.workflow_rules import check_task
from engine.model.workflows import Callback, CallbackState, Mode, UndoFunction, Workflow, WorkflowTask
from engine.sdk.builders import RealtimeTaskBuilder, TaskBuilder, WorkflowBuilder
from tests.support.workflows import workflows


def test_the_sample_of_the_seed() -> None:
    extract = (
        TaskBuilder("数据提取", "从数据源提取原始数据")
        .with_job_function("extract_data", {"source": "database", "table": "users", "limit": 1000})
        .with_timeout(60)
        .with_retry_count(3)
        .with_retry_interval(5)
        .build()
    )
    transform = (
        TaskBuilder("数据转换", "转换数据格式")
        .with_job_function("transform_data", None)
        .with_dependencies("数据提取")
        .with_timeout(120)
        .build()
    )
    write = (
        TaskBuilder("数据写入", "写入目标数据库")
        .with_job_function("write_data", None)
        .with_compensation("rollback_write", None)
        .with_dependencies("数据转换")
        .build()
    )
    built = (
        WorkflowBuilder("数据同步工作流", "每日数据同步任务")
        .with_cron_expr("0 0 2 * * *")
        .with_task(extract)
        .with_task(transform)
        .with_task(write)
        .with_params({"env": "production", "source": "mysql"})
        .build()
    )
    assert built == Workflow(
        "数据同步工作流",
        "每日数据同步任务",
        cron="0 0 2 * * *",
        params={"env": Param("production"), "source": Param("mysql")},
        tasks=[
            WorkflowTask(
                "数据提取",
                "从数据源提取原始数据",
                function="extract_data",
                params={"source": "database", "table": "users", "limit": 1000},
                timeout_ms=60_000,
                retry_count=3,
                retry_interval_ms=5_000,
            ),
            WorkflowTask(
                "数据转换",
                "转换数据格式",
                function="transform_data",
                depends_on=["数据提取"],
                timeout_ms=120_000,
            ),
            WorkflowTask(
                "数据写入",
                "写入目标数据库",
                function="write_data",
                depends_on=["数据转换"],
                compensation=UndoFunction("rollback_write"),
            ),
        ],
    )


def test_the_streaming_sample_of_the_seed() -> None:
    collect = (
        RealtimeTaskBuilder("实时数据采集", "采集Kafka消息")
        .with_continuous_mode()
        .with_buffer_size(1000)
        .with_flush_interval(timedelta(seconds=1))
        .with_job_function("kafka_consumer", {"topic": "events"})
        .build()
    )
    built = WorkflowBuilder("实时处理流程").with_streaming_mode().with_realtime_task(collect).build()
    assert built == Workflow(
        "实时处理流程",
        mode=Mode.STREAMING,
        realtime_tasks=[
            RealtimeTask(
                "实时数据采集",
                "采集Kafka消息",
                mode=RealtimeMode.CONTINUOUS,
                buffer_size=1000,
                function="kafka_consumer",
                params={"topic": "events"},
            )
        ],
    )


def task() -> TaskBuilder:
    return TaskBuilder("a").with_job_function("f")


def realtime() -> RealtimeTaskBuilder:
    return RealtimeTaskBuilder("a").with_job_function("f")


@pytest.mark.parametrize(
    ("builder", "fields"),
    [
        (task(), {}),
        (task().with_timeout(-1), {"timeout_ms": 30_000}),
        (task().with_timeout(0), {"timeout_ms": 30_000}),
        (task().with_timeout(0.25), {"timeout_ms": 250}),
        (task().with_retry_count(-3), {"retry_count": 0}),
        (task().with_retry_interval(0.5), {"retry_interval_ms": 500}),
        (task().with_retry_interval(-1), {"retry_interval_ms": None}),
        (task().with_dependencies("x", "y", "x").with_dependency("y"), {"depends_on": ("x", "y")}),
        (task().with_compensation("undo", {"n": 1}), {"compensation": UndoFunction("undo", {"n": 1})}),
        (task().with_compensation_function("undo"), {"compensation": UndoFunction("undo")}),
        (
            task().with_task_handler("SUCCESS", "log").with_task_handler("timeout", "page", "wake up"),
            {
                "callbacks": (
                    Callback(CallbackState.SUCCESS, "log"),
                    Callback(CallbackState.TIMEOUT, "page", "wake up"),
                )
            },
        ),
        (task().with_required_params(["rows"]), {"required_params": ("rows",)}),
        (task().with_result_mapping({"rows": "orders"}), {"result_mapping": {"rows": "orders"}}),
        (task().with_template(True), {"is_template": True}),
        (task().with_rule(Rule.ALL_DONE), {"rule": Rule.ALL_DONE}),
        (task().with_condition("params.x"), {"condition": "params.x"}),
        (task().with_queue("q").with_priority("high"), {"queue": "q", "priority": 10}),
        (task().with_limit("api", 3).with_limit("db", 1), {"limits": {"api": 3, "db": 1}}),
    ],
)
def test_each_method_of_a_task_builder(builder: TaskBuilder, fields: dict[str, Any]) -> None:
    assert builder.build() == WorkflowTask("a", function="f", **fields)


@pytest.mark.parametrize(
    ("builder", "fields"),
    [
        (realtime(), {}),
        (realtime().with_event_driven_mode(), {"mode": RealtimeMode.EVENT_DRIVEN}),
        (realtime().with_buffer(500, 50), {"buffer_size": 500, "batch_size": 50}),
        (realtime().with_flush_interval(0.2), {"flush_interval_ms": 200}),
        (realtime().with_endpoint("ws://x", "ws"), {"endpoint": Endpoint("ws://x", Protocol.WS)}),
        (realtime().with_task_type("event_listener"), {"type": RealtimeType.EVENT_LISTENER}),
        (realtime().with_reconnect(False, 3), {"reconnect": Reconnect(enabled=False, max_attempts=3)}),
        (
            realtime().with_reconnect_backoff(0.5, timedelta(minutes=1), 3),
            {"reconnect": Reconnect(first_ms=500, max_ms=60_000, factor=3)},
        ),
        (realtime().with_backpressure(0.5, "drop"), {"backpressure": Backpressure(0.5, Pressure.DROP)}),
        (realtime().with_data_handler("d"), {"data_handler": "d"}),
        (realtime().with_error_handler("e"), {"error_handler": "e"}),
        (
            realtime().subscribe_event("data.arrived", "h", priority=2, filter="event.size > 1"),
            {"subscriptions": (Subscription("data.arrived", "h", 2, "event.size > 1"),)},
        ),
        (
            realtime().with_collector("c").with_mode("pull"),
            {"collector": "c", "collector_mode": CollectorMode.PULL},
        ),
        (
            realtime().with_dependencies("x").with_timeout(-5).with_retry_count(2),
            {"depends_on": ("x",), "timeout_ms": 30_000, "retry_count": 2},
        ),
    ],
)
def test_each_method_of_a_realtime_task_builder(builder: RealtimeTaskBuilder, fields: dict[str, Any]) -> None:
    assert builder.build() == RealtimeTask("a", function="f", **fields)


def test_another_kind_than_a_function() -> None:
    built = TaskBuilder("a").with_kind("http", {"url": "http://x"}).build()
    assert built == WorkflowTask("a", kind="http", params={"url": "http://x"})


def refusal(builder: TaskBuilder | RealtimeTaskBuilder | WorkflowBuilder) -> str:
    with pytest.raises(WorkflowError) as caught:
        builder.build()
    return str(caught.value)


def test_build_tells_what_is_wrong() -> None:
    assert refusal(TaskBuilder("a")) == "function: is required (or another kind)"
    assert refusal(TaskBuilder("").with_job_function("f")) == "name: task name is required"
    assert refusal(task().with_task_handler("running", "f")) == (
        "callbacks[0].state: expected one of success, failed, timeout, got text 'running'"
    )
    assert refusal(task().with_compensation("")) == "compensation.function: function name is required"
    assert refusal(realtime().with_endpoint("x", "ftp")) == (
        "endpoint.protocol: expected one of ws, wss, tcp, http, got text 'ftp'"
    )
    assert refusal(WorkflowBuilder("w").with_task(task().with_dependency("b").build())) == (
        'tasks[0].depends_on[0]: unknown task "b" (known: a)'
    )
    with pytest.raises(GraphError, match="unknown priority"):
        task().with_priority("huge")


def load_orders() -> None: ...


def undo() -> None: ...


@pytest.mark.parametrize("registry", [{"load_orders", "undo"}, FunctionRegistry([load_orders, undo])])
def test_a_registry_knows_the_functions(registry: set[str] | FunctionRegistry) -> None:
    assert TaskBuilder("a", "", registry).with_job_function("load_orders").build().function == "load_orders"
    wrong = TaskBuilder("a", "", registry).with_job_function("load_order").with_compensation("undone")
    assert refusal(wrong) == (
        'function: unknown function "load_order"; did you mean "load_orders"?\n'
        'compensation.function: unknown function "undone"; did you mean "undo"?'
    )


def test_an_empty_workflow_is_valid_and_a_name_can_change() -> None:
    assert WorkflowBuilder("a").with_name("b").with_streaming_mode().with_batch_mode().build() == Workflow(
        "b"
    )


# --- equal in expressive power


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_whatever_a_constructor_says_a_builder_can_say(workflow: Workflow) -> None:
    builder = (
        WorkflowBuilder(workflow.name, workflow.description)
        .with_params(workflow.params)
        .with_max_concurrent_task(workflow.max_concurrent_task)
        .with_sub_task_error_tolerance(workflow.sub_task_error_tolerance)
        .with_transactional(workflow.transactional)
        .with_labels(workflow.labels)
    )
    if workflow.mode is Mode.STREAMING:
        builder.with_streaming_mode()
    if workflow.cron is not None:
        builder.with_cron_expr(workflow.cron, workflow.timezone)
    for one in workflow.tasks:
        builder.with_task(built_task(one))
    for other in workflow.realtime_tasks:
        builder.with_realtime_task(built_realtime_task(other))
    assert builder.build() == workflow


def built_task(task: WorkflowTask) -> WorkflowTask:
    builder = TaskBuilder(task.name, task.description)
    if task.function is not None:
        builder.with_job_function(task.function, task.params)
    else:
        builder.with_kind(task.kind, task.params)
    if task.timeout_ms is not None:
        builder.with_timeout(task.timeout_ms / 1000)
    if task.retry_interval_ms is not None:
        builder.with_retry_interval(task.retry_interval_ms / 1000)
    if task.condition is not None:
        builder.with_condition(task.condition)
    if task.compensation is not None:
        builder.with_compensation(task.compensation.function, task.compensation.params)
    for callback in task.callbacks:
        builder.with_task_handler(callback.state, callback.function, callback.description)
    if task.limits is not None:
        builder.with_limits(task.limits)
    return (
        builder.with_retry_count(task.retry_count)
        .with_dependencies(*task.depends_on)
        .with_required_params(task.required_params)
        .with_result_mapping(task.result_mapping)
        .with_template(task.is_template)
        .with_rule(task.rule)
        .with_queue(task.queue)
        .with_priority(task.priority)
        .build()
    )


def built_realtime_task(task: RealtimeTask) -> RealtimeTask:
    builder = RealtimeTaskBuilder(task.name, task.description).with_task_type(task.type)
    assert task.function is not None
    builder.with_job_function(task.function, task.params).with_dependencies(*task.depends_on)
    if task.mode is RealtimeMode.CONTINUOUS:
        builder.with_continuous_mode()
    elif task.mode is RealtimeMode.EVENT_DRIVEN:
        builder.with_event_driven_mode()
    if task.timeout_ms is not None:
        builder.with_timeout(task.timeout_ms / 1000)
    if task.endpoint is not None:
        builder.with_endpoint(task.endpoint.url, task.endpoint.protocol)
    if task.data_handler is not None:
        builder.with_data_handler(task.data_handler)
    if task.error_handler is not None:
        builder.with_error_handler(task.error_handler)
    if task.collector is not None:
        builder.with_collector(task.collector)
    for item in task.subscriptions:
        builder.subscribe_event(item.event, item.function, priority=item.priority, filter=item.filter)
    wait = task.reconnect
    return (
        builder.with_retry_count(task.retry_count)
        .with_buffer(task.buffer_size, task.batch_size)
        .with_flush_interval(task.flush_interval_ms / 1000)
        .with_reconnect(wait.enabled, wait.max_attempts)
        .with_reconnect_backoff(wait.first_ms / 1000, wait.max_ms / 1000, wait.factor)
        .with_backpressure(task.backpressure.threshold, task.backpressure.action)
        .with_mode(task.collector_mode)
        .build()
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: b.with_required_params("rows"), "required_params: expected a list, got text 'rows'"),
        (lambda b: b.with_required_params(5), "required_params: expected a list, got an integer 5"),
        (lambda b: b.with_dependencies(["a", "b"]), r"depends_on\[0\]: expected text, got a list"),
        (lambda b: b.with_result_mapping("ab"), "result_mapping: expected an object, got text 'ab'"),
        (lambda b: b.with_retry_count("3"), "retry_count: expected an integer, got text '3'"),
        (lambda b: b.with_task_handler(5, "f"), r"callbacks\[0\].state: expected one of success"),
        (lambda b: b.with_priority(1.5), "a priority is an integer or one of low, medium, high, urgent"),
        (lambda b: b.with_timeout(float("inf")), "a length of time is a number of seconds or a timedelta"),
        (lambda b: b.with_timeout(float("nan")), "a length of time is a number of seconds"),
        (lambda b: b.with_timeout("5"), "a length of time is a number of seconds or a timedelta, got '5'"),
        (lambda b: b.with_timeout(1e12), "timeout_ms: 277777777h46m40s is outside 1ms to"),
        (lambda b: b.with_retry_interval(None), "a length of time is a number of seconds"),
    ],
)
def test_what_a_task_cannot_have_is_refused(
    build: Callable[[TaskBuilder], TaskBuilder], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        build(TaskBuilder("a").with_job_function("f")).build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: b.with_labels("ab"), "labels: expected an object, got text 'ab'"),
        (lambda b: b.with_params(["a"]), "params: expected an object, got a list"),
        (lambda b: b.with_task(TaskBuilder("a")), r"tasks\[0\]: expected an object \(WorkflowTask\), got a"),
    ],
)
def test_what_a_workflow_cannot_have_is_refused(
    build: Callable[[WorkflowBuilder], WorkflowBuilder], message: str
) -> None:
    with pytest.raises(WorkflowError, match=message):
        build(WorkflowBuilder("w")).build()


def test_a_task_takes_a_word_for_its_priority_however_it_is_made() -> None:
    built = TaskBuilder("a").with_job_function("f").with_priority("high").build()
    assert built == WorkflowTask("a", function="f", priority="high")  # type: ignore[arg-type]
    assert built.priority == 10
    with pytest.raises(WorkflowError, match="priority: expected an integer, got text 'hihg'"):
        check_task(WorkflowTask("a", function="f", priority="hihg"))  # type: ignore[arg-type]


def test_lengths_of_time_may_be_timedeltas() -> None:
    built = TaskBuilder("a").with_job_function("f").with_timeout(timedelta(minutes=1)).with_retry_interval(0)
    assert (built.build().timeout_ms, built.build().retry_interval_ms) == (60_000, 0)
