"""The format of the task-engine contract (section 4) and its extensions, as they are read."""

from __future__ import annotations

import json

import pytest

from engine.definitions import from_yaml, read_files, read_workflows
from engine.errors import WorkflowError
from engine.model.graph import Rule
from engine.model.parameters import Param, ParamType
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
from engine.model.workflows import Callback, CallbackState, Mode, UndoFunction, Workflow, WorkflowTask

SAMPLE = """\
workflows:
  jobs:                          # named bindings to registered functions
    - job_id: load-orders        # required, unique
      func_key: load_orders      # required, a registered job function
      description: reads one day of orders
      timeout: 45s               # Go-style duration: 500ms, 45s, 2m30s, 1h
    - job_id: price-orders
      func_key: price_orders
    - job_id: book-orders
      func_key: book_orders
  definitions:
    - workflow_id: nightly-orders      # required, unique; becomes the name
      description: nightly order run
      cron: "0 30 1 * * *"             # [?] extension, six fields
      params: {region: eu}             # [?] extension
      max_concurrent_task: 4           # [?] extension
      tasks:
        - task_id: load                # required, unique in the workflow; the name
          job_id: load-orders          # required, must exist above
          params:                      # string values
            day: "${DAY:today}"        # environment variable with default
            region: "${region}"        # filled from execution parameters
        - task_id: price
          job_id: price-orders
          dependencies: [load]         # names; not itself
          required_params: [rows]      # from params or a dependency's result
          result_mapping: {rows: orders}   # parameter rows <- field orders of load
          retry_count: 2               # [?] extension
          retry_interval: 5s           # [?] extension
          callbacks:                   # status handlers
            - {state: success, func_key: note_success, description: log it}
            - {state: failed, func_key: page_someone}
        - task_id: book
          job_id: book-orders
          dependencies: [price]
          compensation: unbook_orders  # [?] extension, SAGA
          is_template: false           # true: creates sub-tasks at run time
"""


def test_the_sample_of_the_contract() -> None:
    assert from_yaml(SAMPLE) == Workflow(
        "nightly-orders",
        "nightly order run",
        cron="0 30 1 * * *",
        params={"region": "eu"},
        max_concurrent_task=4,
        tasks=[
            WorkflowTask(
                "load",
                "reads one day of orders",
                function="load_orders",
                params={"day": "today", "region": "${region}"},
                timeout_ms=45_000,
            ),
            WorkflowTask(
                "price",
                function="price_orders",
                depends_on=["load"],
                required_params=["rows"],
                result_mapping={"rows": "orders"},
                retry_count=2,
                retry_interval_ms=5_000,
                callbacks=[
                    Callback(CallbackState.SUCCESS, "note_success", "log it"),
                    Callback(CallbackState.FAILED, "page_someone"),
                ],
            ),
            WorkflowTask(
                "book",
                function="book_orders",
                depends_on=["price"],
                compensation=UndoFunction("unbook_orders"),
            ),
        ],
    )


def test_every_extension() -> None:
    text = """
workflows:
  definitions:
    - workflow_id: w
      timezone: Europe/Berlin
      cron: "@daily"
      execution_mode: streaming
      sub_task_error_tolerance: 0.25
      labels: {team: orders}
      params:
        day: {type: string, required: true, description: which}
        filter: {default: {a: 1}}
        regions: [eu, us]
      tasks:
        - task_id: call
          kind: http
          description: asks
          params: {url: "http://x/${day}"}
          timeout: 1h
          queue: slow
          priority: high
          limits: {api: 3}
        - task_id: act
          func_key: act
          dependencies: [call]
          rule: all_done
          condition: tasks.call.result.ok
          params: {status: "${{ tasks.call.result.status }}"}
          compensation: {func_key: undo, params: {n: 1}}
          is_template: true
      realtime_tasks:
        - task_id: listen
          func_key: take
          description: listens
          mode: event_driven
          task_type: event_listener
          dependencies: [call]
          timeout: 5s
          retry_count: 1
          buffer_size: 50
          batch_size: 5
          flush_interval: 200ms
          endpoint: {url: "ws://x", protocol: ws}
          reconnect: {enabled: false, max_attempts: 3, first: 2s, max: 4s, factor: 3, jitter: 0}
          backpressure: {threshold: 0.5, action: drop}
          data_handler: d
          error_handler: e
          subscriptions: [{event: data.arrived, func_key: f, priority: 2, filter: event.size > 1}]
          collector: c
          collector_mode: pull
"""
    assert from_yaml(text) == Workflow(
        "w",
        cron="@daily",
        timezone="Europe/Berlin",
        mode=Mode.STREAMING,
        sub_task_error_tolerance=0.25,
        labels={"team": "orders"},
        params={
            "day": Param(type=ParamType.STRING, required=True, description="which"),
            "filter": Param({"a": 1}),
            "regions": Param(["eu", "us"]),
        },
        tasks=[
            WorkflowTask(
                "call",
                "asks",
                kind="http",
                params={"url": "http://x/${day}"},
                timeout_ms=3_600_000,
                queue="slow",
                priority=10,
                limits={"api": 3},
            ),
            WorkflowTask(
                "act",
                function="act",
                depends_on=["call"],
                rule=Rule.ALL_DONE,
                condition="tasks.call.result.ok",
                params={"status": "${{ tasks.call.result.status }}"},
                compensation=UndoFunction("undo", {"n": 1}),
                is_template=True,
            ),
        ],
        realtime_tasks=[
            RealtimeTask(
                "listen",
                "listens",
                function="take",
                mode=RealtimeMode.EVENT_DRIVEN,
                type=RealtimeType.EVENT_LISTENER,
                depends_on=["call"],
                timeout_ms=5_000,
                retry_count=1,
                buffer_size=50,
                batch_size=5,
                flush_interval_ms=200,
                endpoint=Endpoint("ws://x", Protocol.WS),
                reconnect=Reconnect(
                    enabled=False, max_attempts=3, first_ms=2_000, max_ms=4_000, factor=3.0, jitter=0.0
                ),
                backpressure=Backpressure(0.5, Pressure.DROP),
                data_handler="d",
                error_handler="e",
                subscriptions=[Subscription("data.arrived", "f", 2, "event.size > 1")],
                collector="c",
                collector_mode=CollectorMode.PULL,
            )
        ],
    )


def test_parameters_keep_their_json_types() -> None:
    text = "workflows: {definitions: [{workflow_id: w, tasks: [{task_id: a, func_key: f, params: %s}]}]}"
    values = '{n: 1, x: 1.5, no: no, t: true, z: null, l: [1, {a: "1"}], d: 2026-01-01}'
    assert from_yaml(text % values).tasks[0].params == {
        **{"n": 1, "x": 1.5, "no": "no", "t": True, "z": None, "l": [1, {"a": "1"}], "d": "2026-01-01"}
    }


def test_a_key_without_a_value_is_a_missing_key() -> None:
    text = """
workflows:
  jobs:
  definitions:
    - workflow_id: w
      description:
      cron: ~
      tasks:
"""
    assert from_yaml(text) == Workflow("w")


def test_json_is_yaml() -> None:
    text = (
        '{"workflows": {"definitions": [{"workflow_id": "w", "tasks": [{"task_id": "a", "func_key": "f"}]}]}}'
    )
    assert from_yaml(text).tasks == (WorkflowTask("a", function="f"),)


def test_json_escapes_a_character_as_two() -> None:
    document = {"workflows": {"definitions": [{"workflow_id": "\U0001f600", "labels": {"\U0001f600": "a"}}]}}
    assert from_yaml(json.dumps(document)) == Workflow("\U0001f600", labels={"\U0001f600": "a"})


def test_a_task_s_own_words_go_before_those_of_its_job() -> None:
    text = """
workflows:
  jobs: [{job_id: j, func_key: f, description: of the job, timeout: 10s}]
  definitions:
    - workflow_id: w
      tasks:
        - {task_id: a, job_id: j}
        - {task_id: b, job_id: j, description: own, timeout: 1s}
        - {task_id: c, func_key: g, timeout: 0s}
"""
    assert from_yaml(text).tasks == (
        WorkflowTask("a", "of the job", function="f", timeout_ms=10_000),
        WorkflowTask("b", "own", function="f", timeout_ms=1_000),
        WorkflowTask("c", function="g"),
    )


# --- several


def test_all_definitions_of_all_documents_are_read() -> None:
    text = """
workflows:
  definitions: [{workflow_id: a}, {workflow_id: b}]
---
workflows:
  definitions: [{workflow_id: c}]
"""
    assert [workflow.name for workflow in read_workflows(text)] == ["a", "b", "c"]
    with pytest.raises(WorkflowError, match="definitions: one is expected, got 3"):
        from_yaml(text)


def test_documents_without_content_are_none() -> None:
    text = "---\n# head\n---\nworkflows: {definitions: [{workflow_id: a}]}\n---\n"
    assert from_yaml(text) == Workflow("a")


def test_the_first_of_an_id_wins_over_those_of_later_files() -> None:
    first = """
workflows:
  jobs: [{job_id: j, func_key: first}]
  definitions: [{workflow_id: w, description: first}]
"""
    second = """
workflows:
  jobs: [{job_id: j, func_key: second}, {job_id: k, func_key: other}]
  definitions:
    - {workflow_id: w, description: second}
    - {workflow_id: x, tasks: [{task_id: a, job_id: j}, {task_id: b, job_id: k}]}
"""
    found = read_files({"one.yaml": first, "two.yaml": second})
    assert found == [
        Workflow("w", "first"),
        Workflow("x", tasks=[WorkflowTask("a", function="first"), WorkflowTask("b", function="other")]),
    ]


def test_a_job_may_stand_in_a_later_file() -> None:
    uses = "workflows: {definitions: [{workflow_id: w, tasks: [{task_id: a, job_id: j}]}]}"
    has = "workflows: {jobs: [{job_id: j, func_key: f}]}"
    assert read_files({"a": uses, "b": has})[0].tasks[0].function == "f"


# --- the environment


def first_task(text: str, environment: dict[str, str] | None = None, params: str = "{}") -> WorkflowTask:
    definition = f"workflows: {{definitions: [{{workflow_id: w, params: {params}, tasks: [{text}]}}]}}"
    return from_yaml(definition, environment=environment).tasks[0]


@pytest.mark.parametrize(
    ("written", "environment", "read"),
    [
        ('"${DAY:today}"', {}, "today"),
        ('"${DAY:today}"', {"DAY": "monday"}, "monday"),
        ('"${DAY:}"', {}, ""),
        ('"of ${DAY:today} and ${TIME}"', {"TIME": "noon"}, "of today and noon"),
        ('"${ENV}"', {}, "dev"),
        ('"${ENV}"', {"ENV": "prod"}, "prod"),
        ('"${day}"', {}, "${day}"),
        ('"${region}"', {"region": "of the machine"}, "${region}"),  # a parameter of the workflow
        ('"$${DAY:today}"', {"DAY": "monday"}, "$${DAY:today}"),
        ('"${{ params.region }}"', {"params": "x"}, "${{ params.region }}"),
        ('"${N:3}"', {}, "3"),
        ("'a: ${X}'", {"X": "b: [c"}, "a: b: [c"),  # no variable brings YAML of its own
    ],
)
def test_variables_and_what_is_left_alone(written: str, environment: dict[str, str], read: str) -> None:
    task = f"{{task_id: a, func_key: f, params: {{value: {written}}}}}"
    assert first_task(task, environment, "{region: eu}").params == {"value": read}


def test_a_variable_without_quotes_has_the_type_of_its_value() -> None:
    text = "workflows:\n  definitions:\n  - workflow_id: w\n    max_concurrent_task: ${LIMIT:3}\n"
    assert from_yaml(text).max_concurrent_task == 3
    assert from_yaml(text, environment={"LIMIT": "7"}).max_concurrent_task == 7
    with pytest.raises(WorkflowError, match="expected an integer, got text 'many'"):
        from_yaml(text, environment={"LIMIT": "many"})


def test_the_server_s_environment_is_not_read_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    assert first_task('{task_id: a, func_key: f, params: {x: "${SECRET}"}}').params == {"x": "${SECRET}"}


def test_a_document_can_do_without_variables() -> None:
    text = """
workflows:
  environment: false
  definitions: [{workflow_id: w, description: "${ENV} ${DAY:today}"}]
"""
    assert from_yaml(text, environment={"DAY": "x"}).description == "${ENV} ${DAY:today}"


def test_a_variable_cannot_fill_the_memory() -> None:
    names = " ".join(["${BIG}"] * 100)
    with pytest.raises(WorkflowError, match="variables add more than"):
        first_task(f'{{task_id: a, func_key: f, params: {{x: "{names}"}}}}', {"BIG": "x" * 100_000})
