"""What an attempt puts together before its task runs (contract sections 3.1 and 5.1)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.errors import ParamsError, UnresolvedReference
from engine.model.inputs import Inputs, apply
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Workflow, WorkflowTask


def inputs_of(**fields: Any) -> tuple[Inputs, Any]:
    """Those of a task `t` behind `a` and `b`, as they are stored, and its parameters."""
    before = [WorkflowTask("a", function="f"), WorkflowTask("b", function="f")]
    task = WorkflowTask("t", depends_on=["a", "b"], **{"function": "f", **fields})
    spec = graph_of(Workflow("w", tasks=[*before, task])).tasks[2]
    return Inputs.from_json(json.loads(json.dumps(spec.inputs))), spec.params


def own(params: Any) -> Any:
    return params["params"]


def test_a_mapped_field_becomes_a_parameter() -> None:
    inputs, params = inputs_of(result_mapping={"rows": "orders"}, required_params=["rows"])
    assert own(apply(inputs, params, {"a": {"orders": [1]}})) == {"rows": [1]}
    assert own(params) == {}


def test_the_first_dependency_in_declared_order_wins() -> None:
    inputs, params = inputs_of(result_mapping={"n": "n"})
    assert own(apply(inputs, params, {"b": {"n": 2}, "a": {"n": 1}})) == {"n": 1}
    assert own(apply(inputs, params, {"b": {"n": 2}, "a": {"m": 1}})) == {"n": 2}
    assert own(apply(inputs, params, {"b": {"n": None}, "a": "no object"})) == {"n": None}


def test_an_explicit_parameter_is_not_overwritten() -> None:
    inputs, params = inputs_of(params={"n": 0}, result_mapping={"n": "n"})
    assert own(apply(inputs, params, {"a": {"n": 1}})) == {"n": 0}


def test_a_field_that_nobody_has_is_left_out() -> None:
    inputs, params = inputs_of(result_mapping={"n": "n"})
    assert own(apply(inputs, params, {"a": {}})) == {}


def test_required_parameters_come_from_params_mapping_or_a_result() -> None:
    inputs, params = inputs_of(
        params={"x": None}, required_params=["x", "y", "z"], result_mapping={"y": "yy"}
    )
    assert own(apply(inputs, params, {"a": {"yy": 1}, "b": {"z": 2}})) == {"x": None, "y": 1}
    with pytest.raises(ParamsError) as caught:
        apply(inputs, params, {"a": {}})
    assert str(caught.value) == "missing required params: [y, z]"


def test_references_come_first() -> None:
    inputs, params = inputs_of(params={"n": "${{ tasks.a.result.m }}"}, result_mapping={"n": "n"})
    assert own(apply(inputs, params, {"a": {"n": 1, "m": 2}})) == {"n": 2}
    with pytest.raises(UnresolvedReference, match=r'params.n: .*the result of "a" is not there'):
        apply(inputs, params, {})


def test_another_kind_has_its_parameters_at_the_top() -> None:
    inputs, params = inputs_of(
        function=None, kind="http", params={"url": "u/${{ tasks.a.result.id }}"}, result_mapping={"body": "b"}
    )
    assert apply(inputs, params, {"a": {"id": 7, "b": "x"}}) == {"url": "u/7", "body": "x"}


def test_whose_results_are_needed() -> None:
    by_reference, _ = inputs_of(params={"n": "${{ tasks.b.result }}"})
    assert by_reference.tasks == ["b"]
    by_mapping, _ = inputs_of(params={"n": "${{ tasks.b.result }}"}, required_params=["x"])
    assert by_mapping.tasks == ["a", "b"]


def test_nothing_to_put_together_is_stored_as_nothing() -> None:
    assert Inputs().to_json() is None
    assert Inputs.from_json(None) == Inputs()
    assert apply(Inputs(), {"a": 1}, {}) == {"a": 1}
    inputs, _ = inputs_of(condition="params.x")
    assert inputs.condition == "params.x"
