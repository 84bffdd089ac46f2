"""What is written reads as what it was, whatever it holds and wherever it is read."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.definitions import from_yaml, read_workflows, to_yaml
from engine.model.parameters import Param
from engine.model.workflow_rules import faults
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from tests.support.workflows import workflows

ANY_ENVIRONMENT = {"region": "elsewhere", "HOME": "/root", "DAY": "monday", "ENV": "prod", "x": "y"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_yaml_is_read_as_what_was_written(workflow: Workflow) -> None:
    assert faults(workflow) == []
    written = to_yaml(workflow)
    assert from_yaml(written) == workflow
    again = from_yaml(written, environment=ANY_ENVIRONMENT)
    assert json.dumps(again.to_json()) == json.dumps(workflow.to_json())  # 1 is not 1.0, nor true


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(workflows(), min_size=1, max_size=3, unique_by=lambda workflow: workflow.name))
def test_several_workflows_are_one_document(listed: list[Workflow]) -> None:
    assert read_workflows(to_yaml(listed)) == listed


def test_it_is_written_for_people() -> None:
    workflow = Workflow(
        "nightly",
        cron="0 30 1 * * *",
        params={"region": "eu", "day": Param(type="string", required=True)},  # type: ignore[arg-type]  # as text
        tasks=[
            WorkflowTask(
                "load",
                kind="shell",
                params={"script": "set -e\nload ${region}\n", "until": "no"},
                timeout_ms=150_000,
            ),
            WorkflowTask("book", function="book", depends_on=["load"], compensation=UndoFunction("unbook")),
        ],
    )
    assert to_yaml(workflow) == (
        "workflows:\n"
        "  definitions:\n"
        "  - workflow_id: nightly\n"
        "    params:\n"
        "      region: eu\n"
        "      day:\n"
        "        type: string\n"
        "        required: true\n"
        '    cron: "0 30 1 * * *"\n'
        "    tasks:\n"
        "    - task_id: load\n"
        "      kind: shell\n"
        "      params:\n"
        "        script: |\n"
        "          set -e\n"
        "          load ${region}\n"
        '        until: "no"\n'
        "      timeout: 2m30s\n"
        "    - task_id: book\n"
        "      func_key: book\n"
        "      dependencies:\n"
        "      - load\n"
        "      compensation: unbook\n"
    )


def test_a_placeholder_that_could_be_a_variable_switches_variables_off() -> None:
    task = WorkflowTask("a", function="f", params={"home": "${HOME}"})
    written = to_yaml(Workflow("w", tasks=[task]))
    assert written.startswith("workflows:\n  environment: false\n")
    assert from_yaml(written, environment={"HOME": "/root"}).tasks[0] == task
