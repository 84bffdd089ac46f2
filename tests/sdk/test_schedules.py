"""Versions, schedules and functions of an embedded engine, from both sides of the event loop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import engine
from engine.errors import Conflict, InvalidInput, NotFound
from engine.model.schedules import CatchUp, Overlap, ScheduleSpec
from engine.model.workflows import Workflow, WorkflowTask

SPEC = ScheduleSpec("weekdays", "0 30 8 * * MON-FRI", zone="Europe/Berlin")
pytestmark = pytest.mark.anyio


@engine.task
def load(day: str, limit: int = 10) -> int:
    """Reads one day of orders."""
    return limit


def report(description: str = "", **fields: Any) -> Workflow:
    return Workflow("report", description=description, tasks=[WorkflowTask("only", kind="noop")], **fields)


async def test_versions_and_their_definitions(database_url: str) -> None:
    async with engine.Engine(database_url, workers=0) as e:
        for word in ("first", "second", "third"):
            await e.save(report(word))
        assert [saved.version for saved in await e.workflow_versions("report")] == [3, 2, 1]
        [second] = await e.workflow_versions("report", limit=1, offset=1)
        assert (second.version, second.description) == (2, "second")
        assert engine.from_yaml(await e.workflow_definition("report", 2)) == report("second")
        assert engine.from_yaml(await e.workflow_definition("report")) == report("third")
        with pytest.raises(NotFound, match="workflow not found: report version 4"):
            await e.workflow_definition("report", 4)


async def test_a_schedule_is_changed_field_by_field(database_url: str) -> None:
    async with engine.Engine(database_url, workers=0) as e:
        await e.save(report())
        made = await e.schedule("report", SPEC)
        assert await e.get_schedule("weekdays") == await e.get_schedule(made.id) == made
        changed = await e.change_schedule("weekdays", overlap="skip", catch_up=CatchUp.ALL, is_enabled=False)
        assert (changed.overlap, changed.catch_up, changed.is_paused) == (Overlap.SKIP, CatchUp.ALL, True)
        assert (changed.expression, changed.next_at) == (made.expression, made.next_at)
        assert await e.list_schedules("report", is_enabled=True) == []
        assert await e.list_schedules(is_enabled=False) == [changed]
        assert not (await e.resume_schedule("weekdays")).is_paused
        for wrong in ({"overlaps": "skip"}, {"overlap": "maybe"}, {"expression": "x"}, {"catch_up_limit": 0}):
            with pytest.raises(InvalidInput):
                await e.change_schedule("weekdays", **wrong)
        await e.schedule("report", ScheduleSpec("other", "@daily"))
        with pytest.raises(Conflict, match="there is a schedule 'weekdays' already"):
            await e.change_schedule("other", name="weekdays")
        await e.delete_schedule("weekdays")
        with pytest.raises(NotFound, match="schedule not found: weekdays"):
            await e.get_schedule("weekdays")


async def test_the_next_times_of_a_schedule(database_url: str) -> None:
    async with engine.Engine(database_url, workers=0) as e:
        await e.save(report())
        made = await e.schedule("report", SPEC)
        times = await e.upcoming("weekdays", 5)
        assert times[0] == made.next_at and times == sorted(times) and len(times) == 5
        assert all(time > datetime.now(UTC) for time in times)


async def test_functions_tell_whether_this_engine_has_code_for_them(database_url: str) -> None:
    async with engine.Engine(database_url, functions=[load]) as e:
        [found] = await e.list_functions()
        assert (found.name, found.description, found.worker_count) == ("load", "Reads one day of orders.", 1)
        assert set(found.schema["properties"]) == {"day", "limit"}
        assert await e.list_functions(is_missing=True) == []
    async with engine.Engine(database_url, workers=0) as e:  # the worker has gone
        [missing] = await e.list_functions(is_missing=True)
        assert (missing.name, missing.workers) == ("load", ())
        assert await e.missing_functions() == ["load"]


def test_all_of_it_blocks_where_there_is_no_event_loop(database_url: str) -> None:
    with engine.SyncEngine(database_url, workers=0) as e:
        e.save(report())
        made = e.schedule("report", SPEC)
        assert e.get_schedule("weekdays") == made
        assert e.upcoming("weekdays", 1) == [made.next_at]
        assert e.change_schedule("weekdays", is_enabled=False).is_paused
        assert [saved.version for saved in e.workflow_versions("report")] == [1]
        assert engine.from_yaml(e.workflow_definition("report")) == report()
        assert e.list_functions() == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "schedule name is required"),
        ({"name": "a\x1bb"}, r"contains U\+001B \(control character\)"),
        ({"params": [1]}, "params of a schedule are an object"),
        ({"overlap": "maybe"}, "overlap 'maybe' is not one of allow, skip, cancel_previous, queue_one"),
        ({"catch_up": None}, "catch_up None is not one of skip, last, all"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        ScheduleSpec(**{"name": "s", "expression": "@daily", **fields})


def test_text_may_be_given_for_words() -> None:
    spec = ScheduleSpec("s", "@daily", overlap="skip", catch_up="all")  # type: ignore[arg-type]  # as text
    assert (spec.overlap, spec.catch_up) == (Overlap.SKIP, CatchUp.ALL)
