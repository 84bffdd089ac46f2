"""What is gathered of the errors in a document: enough to mend it, however many there are."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from engine.api.answers import MAX_ERRORS, InvalidFields
from engine.api.run_translation import validate
from engine.api.run_wire import MAX_LABELS, Errors, RunIn, TokenIn
from engine.errors import TooLarge

MANY = 1_000
TASK = {"name": "a", "kind": "noop"}
KEYS = {str(number): 0 for number in range(MANY)}
FLOODS: dict[str, tuple[type[BaseModel], Any]] = {
    "tasks": (RunIn, {"tasks": [{}] * MANY}),
    "tasks of another type": (RunIn, {"tasks": [0] * MANY}),
    "dependencies": (RunIn, {"tasks": [{**TASK, "depends_on": [0] * MANY}]}),
    "keys of the run": (RunIn, {"tasks": [TASK], **KEYS}),
    "keys of a task": (RunIn, {"tasks": [{**TASK, **KEYS}]}),
    "keys of a dependency": (RunIn, {"tasks": [{**TASK, "depends_on": [{"name": "b", **KEYS}]}]}),
    "keys of a retry": (RunIn, {"tasks": [{**TASK, "retry": KEYS}]}),
    "labels": (RunIn, {"tasks": [TASK], "labels": KEYS}),
    "scopes": (TokenIn, {"name": "a", "scopes": [0] * MANY}),
}


@pytest.mark.parametrize(("model", "document"), FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_errors_is_not_gathered(model: type[BaseModel], document: Any) -> None:
    """Each takes a kilobyte, and a large body has room for millions of them."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document, context=Errors(MAX_ERRORS))
    assert caught.value.error_count() <= 2 * MAX_ERRORS


def test_errors_of_several_tasks_are_told_at_once() -> None:
    tasks = [TASK, {**TASK, "name": 1}, TASK, {"name": "d"}, {**TASK, "priority": "x", "rule": "x"}]
    with pytest.raises(InvalidFields) as caught:
        validate(RunIn, {"tasks": tasks, "nmae": "x"})
    found = {error.pointer for error in caught.value.errors}
    assert found == {"/tasks/1/name", "/tasks/3/kind", "/tasks/4/priority", "/tasks/4/rule", "/nmae"}


def test_too_many_labels_are_counted() -> None:
    with pytest.raises(InvalidFields, match=f"/labels: has 1000 labels, the limit is {MAX_LABELS}"):
        validate(RunIn, {"tasks": [TASK], "labels": KEYS})


def test_too_many_tasks_are_refused_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.model.graph.MAX_TASKS", 1)
    with pytest.raises(TooLarge, match="task graph has 2 tasks, the limit is 1"):
        validate(RunIn, {"tasks": [{}, {}]})
