"""Parameters of runs: which are accepted when one is started, and once more."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from engine.errors import ParamsError
from engine.model.json import JSON
from engine.model.parameters import Param, ParamType
from engine.model.schedules import ScheduleSpec
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import executions, schedules, workflows
from engine.store.database import Database
from engine.store.schema import workflow_run
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


@pytest.mark.parametrize("stored", [{"region": "us", "stray": 1}, {"region": "us", "zone": None}])
def test_what_an_earlier_release_kept_does_not_stand_in_the_way_of_a_rerun(
    database: Database, stored: JSON
) -> None:
    declared = {"region": "eu", "zone": Param(default="UTC", type=ParamType.STRING)}
    do(workflows.save(database, [Workflow("w", params=declared, tasks=[TASK])]))
    first = do(executions.execute(database, "w")).run_id
    update = sa.update(workflow_run).where(workflow_run.c.run_id == first).values(params=stored)
    database.run_sync(lambda tx: tx.execute(update))
    again = do(executions.rerun(database, first)).run_id
    assert do(workflows.get_run(database, again)).params == {"region": "us", "zone": "UTC"}


def test_a_schedule_goes_on_when_its_workflow_no_longer_knows_a_parameter(database: Database) -> None:
    do(workflows.save(database, [Workflow("w", params={"region": "eu"}, tasks=[TASK])]))
    schedule = do(schedules.create(database, "w", ScheduleSpec("s", "@daily", params={"region": "us"})))
    task = WorkflowTask("only", kind="noop", params={"message": "${area}"})
    do(workflows.save(database, [Workflow("w", params={"area": "eu"}, tasks=[task])]))
    run_id = do(schedules.trigger(database, schedule.id)).run_id
    assert do(workflows.get_run(database, run_id)).params == {"area": "eu"}
