"""Schedules on the database: each nominal time is decided about once, whoever looks and however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.errors import Conflict, InvalidInput, NotFound, ParamsError, WorkflowError
from engine.model.parameters import Param
from engine.model.schedules import CatchUp, Overlap, ScheduleSpec
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import runs, schedules, workflows
from engine.store.database import Database
from engine.store.schedules import Firing, Schedule
from tests.factories import do, end_all, rows, run_of

ONE = (WorkflowTask("only", kind="noop"),)


def saved(database: Database, name: str = "nightly", **fields: Any) -> str:
    [workflow] = do(workflows.save(database, [Workflow(name, tasks=ONE, **fields)]))
    return workflow.id


def scheduled(database: Database, expression: str = "0 * * * *", **fields: Any) -> Schedule:
    saved(database)
    return do(schedules.create(database, "nightly", ScheduleSpec("hourly", expression, **fields)))


def overdue(database: Database, schedule: Schedule, **ago: float) -> datetime:
    """Make the schedule's next time one that came so long ago; returns it."""
    cron_time = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(**ago)
    database.run_sync(lambda tx: schedules.store.set_(tx, schedule.id, next_at=cron_time))
    return cron_time


def firings(database: Database, key: str = "hourly") -> list[Firing]:
    return do(schedules.firings(database, key))


def outcomes(database: Database) -> list[str]:
    """Oldest first."""
    return [firing.outcome for firing in reversed(firings(database))]


def test_a_time_that_has_come_starts_a_run_of_the_newest_version(database: Database) -> None:
    schedule = scheduled(database)
    saved(database)  # version 2
    nominal = overdue(database, schedule, hours=0)
    assert do(schedules.tick(database)).started == 1
    [firing] = firings(database)
    assert (firing.nominal_at, firing.outcome) == (nominal, "started")
    found = do(workflows.get_run(database, firing.run_id or 0))
    assert (found.workflow_name, found.version) == ("nightly", 2)
    assert do(runs.events(database, found.run.id))[0].actor == "schedule"
    now = do(schedules.get(database, "hourly"))
    assert (now.last_at, now.next_at) == (nominal, nominal + timedelta(hours=1))


def test_nothing_happens_before_the_time(database: Database) -> None:
    scheduled(database)
    tick = do(schedules.tick(database))
    assert tick.started == 0 and tick.next_in is not None and 0 < tick.next_in <= 3600


def test_a_time_that_was_decided_about_starts_nothing(database: Database) -> None:
    schedule = scheduled(database)
    nominal = overdue(database, schedule, hours=0)
    database.run_sync(lambda tx: schedules.store.decide(tx, schedule.id, nominal, "skipped"))
    assert do(schedules.tick(database)).started == 0
    assert outcomes(database) == ["skipped"]


def test_any_number_of_schedulers_start_one_run_for_each_time(row_locking: Database) -> None:
    schedule = scheduled(row_locking, catch_up=CatchUp.ALL)
    overdue(row_locking, schedule, hours=30)

    def tick_to_the_end(_: int) -> int:
        started, tick = 0, schedules.Tick(0, 0.0)
        while tick.next_in is not None and tick.next_in <= 0:  # a few of them at a time
            tick = do(schedules.tick(row_locking))
            started += tick.started
        return started

    with ThreadPoolExecutor(6) as pool:
        started = sum(pool.map(tick_to_the_end, range(6)))
    assert started == len(firings(row_locking)) == 31
    assert rows(row_locking, "SELECT count(*) AS n FROM run")[0].n == 31


def test_what_was_missed_is_noted_once(database: Database) -> None:
    schedule = scheduled(database, catch_up=CatchUp.LAST)
    overdue(database, schedule, hours=5)
    do(schedules.tick(database))
    assert outcomes(database) == ["missed", "started"]


def test_with_skip_a_time_passes_while_the_run_before_it_goes_on(database: Database) -> None:
    schedule = scheduled(database, overlap=Overlap.SKIP, catch_up=CatchUp.ALL)
    overdue(database, schedule, hours=2)
    do(schedules.tick(database))
    assert outcomes(database) == ["started", "skipped", "skipped"]
    end_all(database)
    overdue(database, schedule, hours=-1)
    database.run_sync(lambda tx: schedules.store.set_(tx, schedule.id, next_at=schedules.store.now(tx)))
    do(schedules.tick(database))
    assert outcomes(database)[-1] == "started"


def test_with_queue_one_the_newest_time_waits_for_the_run_before_it(database: Database) -> None:
    schedule = scheduled(database, overlap=Overlap.QUEUE_ONE, catch_up=CatchUp.ALL)
    overdue(database, schedule, hours=2)
    do(schedules.tick(database))
    assert outcomes(database) == ["started", "replaced", "queued"]
    assert do(schedules.tick(database)).started == 0
    end_all(database)
    assert do(schedules.tick(database)).started == 1
    assert outcomes(database) == ["started", "replaced", "started"]
    assert do(schedules.get(database, "hourly")).queued_at is None


def test_with_cancel_previous_the_run_before_it_ends(database: Database) -> None:
    schedule = scheduled(database, overlap=Overlap.CANCEL_PREVIOUS, catch_up=CatchUp.ALL)
    overdue(database, schedule, hours=1)
    do(schedules.tick(database))
    first, second = (firing.run_id or 0 for firing in reversed(firings(database)))
    assert (run_of(database, first).state, run_of(database, second).state) == ("cancelled", "pending")


def test_a_paused_schedule_starts_nothing_and_goes_on_with_the_next_time(database: Database) -> None:
    schedule = scheduled(database, catch_up=CatchUp.ALL)
    overdue(database, schedule, hours=3)
    do(schedules.pause(database, "hourly"))
    assert do(schedules.tick(database)).started == 0
    resumed = do(schedules.resume(database, "hourly"))
    assert resumed.next_at is not None and resumed.next_at > datetime.now(UTC)
    assert do(schedules.tick(database)).started == 0


def test_a_firing_that_cannot_start_says_why(database: Database) -> None:
    schedule = scheduled(database)
    saved(database, params={"day": Param(required=True)})  # the schedule gives none
    overdue(database, schedule, hours=0)
    assert do(schedules.tick(database)).started == 0
    [firing] = firings(database)
    assert (firing.outcome, firing.run_id) == ("failed", None)
    assert firing.detail == do(schedules.get(database, "hourly")).error == "missing parameters: day"


def test_it_can_be_triggered_at_any_time(database: Database) -> None:
    scheduled(database, overlap=Overlap.SKIP)
    do(schedules.pause(database, "hourly"))
    first = do(schedules.trigger(database, "hourly", actor="ann"))
    second = do(schedules.trigger(database, "hourly", actor="ann"))
    assert {firing.run_id for firing in firings(database)} == {first.run_id, second.run_id}
    assert {firing.detail for firing in firings(database)} == {"triggered by ann"}


def test_the_next_times_are_shown(database: Database) -> None:
    scheduled(database, "0 30 1 * * *", zone="Europe/Berlin")
    times = do(schedules.upcoming(database, "hourly", 3))
    assert len(times) == 3 and times == sorted(times)
    assert {time.tzinfo for time in times} == {UTC}


def test_a_workflow_with_cron_has_a_schedule_that_follows_it(database: Database) -> None:
    saved(database, cron="0 0 2 * * *", timezone="Europe/Berlin")
    first = do(schedules.get(database, "nightly"))
    assert (first.expression, first.zone) == ("0 0 2 * * *", "Europe/Berlin")
    do(schedules.pause(database, "nightly"))
    saved(database, cron="0 0 3 * * *")
    second = do(schedules.get(database, "nightly"))
    assert (second.id, second.expression, second.zone, second.is_paused) == (
        first.id,
        "0 0 3 * * *",
        "UTC",
        True,
    )
    saved(database)
    with pytest.raises(NotFound, match="schedule not found: nightly"):
        do(schedules.get(database, "nightly"))


def test_schedules_go_with_their_workflow_and_runs_stay(database: Database) -> None:
    scheduled(database)
    run_id = do(schedules.trigger(database, "hourly")).run_id
    with pytest.raises(Conflict, match="has unfinished runs"):
        do(workflows.delete(database, "nightly"))
    end_all(database)
    do(workflows.delete(database, "nightly"))
    assert do(schedules.list_schedules(database)) == (0, [])
    assert do(workflows.get_run(database, run_id)).workflow_name == "nightly"


def test_what_makes_no_sense_is_refused_and_nothing_is_kept(database: Database) -> None:
    saved(database, params={"day": Param(required=True)})
    with pytest.raises(InvalidInput, match="missing parameters: day"):
        do(schedules.create(database, "nightly", ScheduleSpec("s", "0 * * * *")))
    with pytest.raises(NotFound, match="workflow not found: none"):
        do(schedules.create(database, "none", ScheduleSpec("s", "0 * * * *")))
    do(schedules.create(database, "nightly", ScheduleSpec("s", "0 * * * *", params={"day": 1})))
    with pytest.raises(Conflict, match="there is a schedule 's' already"):
        do(schedules.create(database, "nightly", ScheduleSpec("s", "0 * * * *", params={"day": 1})))
    assert do(schedules.list_schedules(database))[0] == 1


def test_fields_are_changed_and_the_pause_with_them_or_nothing_is(database: Database) -> None:
    scheduled(database)
    do(schedules.create(database, "nightly", ScheduleSpec("other", "@daily")))
    before = do(schedules.get(database, "hourly"))
    with pytest.raises(Conflict, match="there is a schedule 'other' already"):
        do(schedules.change(database, "hourly", {"name": "other"}, is_paused=True))
    with pytest.raises(InvalidInput):
        do(schedules.change(database, "hourly", {"expression": "x"}, is_paused=True))
    assert do(schedules.get(database, "hourly")) == before
    after = do(schedules.change(database, "hourly", {"overlap": Overlap.SKIP, "name": "h"}, is_paused=True))
    assert (after.id, after.name, after.overlap, after.is_paused) == (before.id, "h", Overlap.SKIP, True)
    assert (after.next_at, after.anchor_at) == (before.next_at, before.anchor_at)


def test_parameters_are_tried_when_they_change(database: Database) -> None:
    saved(database, params={"day": Param(type="integer", required=True)})  # type: ignore[arg-type]  # as text
    do(schedules.create(database, "nightly", ScheduleSpec("s", "@daily", params={"day": 1})))
    with pytest.raises(InvalidInput, match="missing parameters: day"):
        do(schedules.change(database, "s", {"params": None}))
    assert do(schedules.change(database, "s", {"params": {"day": 2}})).params == {"day": 2}


def test_the_next_times_of_a_paused_schedule_are_those_from_now_on(database: Database) -> None:
    schedule = scheduled(database)
    do(schedules.pause(database, "hourly"))
    overdue(database, schedule, hours=9)
    assert do(schedules.upcoming(database, "hourly", 1))[0] > datetime.now(UTC)


def test_schedules_are_listed_by_whether_they_are_paused(database: Database) -> None:
    scheduled(database)
    do(schedules.create(database, "nightly", ScheduleSpec("other", "@daily")))
    do(schedules.pause(database, "other"))
    assert [found.name for found in do(schedules.list_schedules(database, is_paused=True))[1]] == ["other"]
    assert [found.name for found in do(schedules.list_schedules(database, is_paused=False))[1]] == ["hourly"]


# --- runs that could never start


def test_a_cron_whose_runs_would_fail_is_refused_with_its_workflow(database: Database) -> None:
    day = {"day": Param(required=True)}
    with pytest.raises(WorkflowError) as caught:
        saved(database, cron="@daily", params=day)
    assert str(caught.value) == (
        "cron: its runs would fail: missing parameters: day "
        "(give defaults, or leave cron out and make a schedule with params)"
    )
    saved(database, cron="@daily")
    do(schedules.change(database, "nightly", {"params": {"day": "monday"}}))
    saved(database, cron="@daily", params=day)
    saved(database, cron="@daily", params={"region": "eu"})  # which no longer knows the day


def test_a_schedule_with_a_misspelt_parameter_is_refused(database: Database) -> None:
    saved(database, params={"region": "eu"})
    for params in ({"Region": "us"}, {"regoin": "us"}):
        with pytest.raises(ParamsError, match='did you mean "region"'):
            do(schedules.create(database, "nightly", ScheduleSpec("hourly", "@hourly", params=params)))
