"""The JSON Schema for editors accepts what is accepted, and refuses what one mistypes."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings

from engine.definitions import json_schema, to_yaml
from engine.definitions.source import parse
from engine.model.workflows import Workflow
from tests.definitions.test_reading import SAMPLE
from tests.support.workflows import workflows

VALIDATOR = jsonschema_rs.validator_for(json_schema())


def document(text: str) -> Any:
    return parse(text)[0].value


def test_the_sample_of_the_contract_is_valid() -> None:
    VALIDATOR.validate(document(SAMPLE))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_whatever_is_written_is_valid(workflow: Workflow) -> None:
    VALIDATOR.validate(document(to_yaml(workflow)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("workflow_id:", "workflow:"),
        ("job_id: price-orders\n          dep", "dep"),
        ("retry_count: 2", "retry_count: two"),
        ("state: failed", "state: sometimes"),
        ("timeout: 45s", "timeout: 45"),
        ("max_concurrent_task: 4", "max_concurrent_task: many"),
        ("func_key: price_orders", "func: price_orders"),
    ],
)
def test_a_slip_is_not(old: str, new: str) -> None:
    assert old in SAMPLE
    assert not VALIDATOR.is_valid(document(SAMPLE.replace(old, new)))


def test_it_speaks_of_the_format_and_not_of_python() -> None:
    schema = json_schema()
    assert schema["title"] == "Task Engine workflows"
    realtime = schema["$defs"]["RealtimeTaskIn"]["properties"]
    assert realtime["flush_interval"]["default"] == "1s"
    assert schema["$defs"]["ParamIn"]["properties"].keys() == {"default", "type", "required", "description"}
    assert "title" not in str(schema["$defs"])
