"""Parameters of runs: which are accepted when one is started, and once more."""

from __future__ import annotations

import pytest

from engine.errors import ParamsError
from engine.model.parameters import Param, ParamType
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import executions, workflows
from engine.store.database import Database
from tests.factories import do

TASK = WorkflowTask("only", kind="noop", params={"message": "${region} ${hour}", "hour": 5})


def test_a_misspelt_parameter_starts_no_run(database: Database) -> None:
    declared = {"region": "eu", "day": Param(type=ParamType.STRING)}
    do(workflows.save(database, [Workflow("w", params=declared, tasks=[TASK])]))
    with pytest.raises(ParamsError, match=r'params\.Region: .* did you mean "region"\?'):
        do(executions.execute(database, "w", {"Region": "us"}))
    first = do(executions.execute(database, "w", {"region": "us", "hour": 6})).run_id
    with pytest.raises(ParamsError, match=r'params\.regoin: .* did you mean "region"\?'):
        do(executions.rerun(database, first, {"regoin": "us"}))
    again = do(executions.rerun(database, first)).run_id
    assert do(workflows.get_run(database, again)).params == {"region": "us", "hour": 6, "day": None}


def test_a_workflow_that_declares_nothing_takes_anything(database: Database) -> None:
    do(workflows.save(database, [Workflow("w", tasks=[TASK])]))
    run_id = do(executions.execute(database, "w", {"region": "us", "other": 1})).run_id
    assert do(workflows.get_run(database, run_id)).params == {"region": "us", "other": 1}
