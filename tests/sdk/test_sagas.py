"""Sagas of an embedded engine: compensations that fail, and what its owner does about them."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, SyncEngine, UndoFunction, Workflow, WorkflowTask, task

UNDO_FAILED = "the warehouse is closed"


class Trip:
    """Two steps that can be undone, if their undoing works; the third fails."""

    def __init__(self) -> None:
        self.undone: list[tuple[str, Any]] = []
        self.failing = {"seat", "room"}

        @task
        def book(what: str) -> str:
            return f"{what} 7"

        @task
        def leave() -> None:
            raise ValueError("no ticket")

        @task
        def unbook(**given: Any) -> None:
            self.undone.append((given["_task_name"], given["_params"]))
            if given["_task_name"] in self.failing:
                raise ValueError(UNDO_FAILED)

        self.functions = [book, leave, unbook]
        undo = UndoFunction("unbook")
        self.workflow = Workflow(
            "trip",
            tasks=[
                WorkflowTask("seat", function="book", params={"what": "seat"}, compensation=undo),
                WorkflowTask(
                    "room",
                    function="book",
                    params={"what": "room"},
                    depends_on=["seat"],
                    compensation=undo,
                ),
                WorkflowTask("leave", function="leave", depends_on=["room"]),
            ],
        )


@pytest.mark.anyio
async def test_a_skipped_compensation_is_not_called_again_by_a_retry() -> None:
    trip = Trip()
    async with Engine("sqlite://", functions=trip.functions) as engine:
        run = await engine.wait((await engine.execute(trip.workflow)).run_id, timeout=30)
        compensations = (await engine.saga(run.id)).compensation_run_id
        assert compensations is not None
        await engine.wait(compensations, timeout=30)
        assert trip.undone == [("room", {"what": "room"}), ("seat", {"what": "seat"})]

        assert (await engine.skip_saga(run.id, ["room"], "never mind", actor="ann")).state == "failed"
        trip.failing.clear()
        await engine.retry_saga(run.id)
        await engine.wait(compensations, timeout=30)
        assert trip.undone[2:] == [("seat", {"what": "seat"})]
        report = await engine.saga(run.id)
        assert (report.state, [skip.actor for skip in report.skips.values()]) == ("signed_off", ["ann"])


def test_a_blocking_engine_skips_compensations_too() -> None:
    trip = Trip()
    with SyncEngine("sqlite://", functions=trip.functions) as engine:
        run = engine.wait(engine.execute(trip.workflow).run_id, timeout=30)
        compensations = engine.saga(run.id).compensation_run_id
        assert compensations is not None
        engine.wait(compensations, timeout=30)
        assert engine.skip_saga(run.id, ["room", "seat"], "never mind").state == "signed_off"
