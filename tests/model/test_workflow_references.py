"""What tasks refer to: parameters of the run by placeholders, their own in conditions."""

from __future__ import annotations

from typing import Any

import pytest

from engine.model.parameters import Param
from engine.model.realtime import RealtimeTask
from engine.model.workflow_references import Reads, param_names
from engine.model.workflow_rules import Checks, faults
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask

READS_P = Checks(condition=lambda _: Reads(params=["p"]))


def told(workflow: Workflow, checks: Checks = READS_P) -> list[str]:
    return [str(fault) for fault in faults(workflow, checks)]


@pytest.mark.parametrize(
    ("declared", "fields", "advice"),
    [
        ({"p": 1}, {}, "; params are its own, add p: ${p} to them"),
        ({}, {"params": {"q": 1}}, " (known: q)"),
        ({}, {"params": {"day": 1}, "required_params": ["p"]}, " (known: day)"),
        ({"p": 1}, {"kind": "http", "function": None}, "; params are its own, add p: ${p} to them"),
    ],
)
def test_a_condition_needs_parameters_of_the_task_itself(
    declared: dict[str, Any], fields: dict[str, Any], advice: str
) -> None:
    task = WorkflowTask("a", **{"function": "f", **fields}, condition="params.p")
    assert told(Workflow("w", params=declared, tasks=[task])) == [
        f"tasks[0].condition: params.p: the task has no such parameter{advice}"
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"p": "${p}"}},
        {"params": {"p": None}},
        {"result_mapping": {"p": "rows"}},
        {"kind": "http", "function": None, "params": "${all}"},
    ],
)
def test_a_parameter_that_may_be_there_is_not_missed(fields: dict[str, Any]) -> None:
    task = WorkflowTask("a", **{"function": "f", **fields}, condition="params.p")
    assert told(Workflow("w", params={"p": 1, "all": {"p": 1}}, tasks=[task])) == []


def test_a_placeholder_that_would_be_left_is_told() -> None:
    params = {"x": "on ${ a b }", "y": ['${{ params["a b"] }}', "$${a b}", "${c d}", "${a-b}"]}
    workflow = Workflow(
        "w", params={"a b": 1, "a-b": 1}, tasks=[WorkflowTask("a", function="f", params=params)]
    )
    assert told(workflow) == ['tasks[0].params.x: ${ a b }: write ${{ params["a b"] }}']


def test_every_parameter_that_is_referred_to_is_named() -> None:
    task = WorkflowTask(
        "a",
        function="f",
        params={"x": "${one} of ${{ tasks.z.result }}", "y": "${{ nothing }}"},
        limits={"k ${two}": 1},
        compensation=UndoFunction("u", {"x": ["${{ params.three.deep }}"]}),
    )
    realtime = RealtimeTask("r", function="f", params={"x": "${four}"})
    workflow = Workflow("w", params={"five": Param()}, tasks=[task], realtime_tasks=[realtime])
    assert [*param_names(workflow)] == ["one", "two", "three", "four"]
