"""What functions read from their context, and ask of the engine."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import AttemptInterrupted, Conflict, InvalidArguments, NotFound, PermanentError
from engine.executors.base import Interruption
from engine.functions.ports import Ports
from engine.functions.subtasks import SubTaskResult
from engine.model.graph import TaskSpec
from tests.functions.bench import World, make_context

pytestmark = pytest.mark.anyio


def test_it_says_which_attempt_of_what_this_is() -> None:
    context = make_context()
    assert (context.task_id, context.task_name, context.run_id, context.attempt) == (11, "load", 7, 2)
    assert (context.workflow_id, context.workflow_instance_id) == ("wf-1", "7")
    assert context.idempotency_key == "task-11"


def test_parameters_are_read_as_they_are_or_converted() -> None:
    context = make_context({"n": "12", "x": 1.5, "yes": "Yes", "no": 0, "s": 7, "none": None})
    assert (context.get_param("n"), context.get_param("zz"), context.get_param("zz", 3)) == ("12", None, 3)
    assert context.has_param("none") and not context.has_param("zz")
    assert (context.get_param_int("n"), context.get_param_float("x")) == (12, 1.5)
    assert (context.get_param_bool("yes"), context.get_param_bool("no")) == (True, False)
    assert (context.get_param_string("s"), context.get_param_string("yes")) == ("7", "Yes")
    assert (context.get_param_int("zz"), context.get_param_string("none", "d")) == (0, "d")
    assert context.must_get_param("s") == 7


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("get_param_int", "twelve", "an integer"),
        ("get_param_int", 1.5, "an integer"),
        ("get_param_int", [1], "an integer"),
        ("get_param_int", "inf", "an integer"),
        ("get_param_float", {}, "a number"),
        ("get_param_bool", "maybe", "true or false"),
        ("get_param_string", {}, "a text"),
    ],
)
def test_a_parameter_that_cannot_be_converted_is_invalid(method: str, value: Any, expected: str) -> None:
    with pytest.raises(InvalidArguments, match=f"p: expected {expected}, got {type(value).__name__}"):
        getattr(make_context({"p": value}), method)("p")


def test_a_parameter_that_must_be_there_is_missed() -> None:
    with pytest.raises(InvalidArguments, match="day: missing"):
        make_context().must_get_param("day")


def test_upstream_results_are_read_by_name_and_field() -> None:
    context = make_context(upstream={"extract": {"rows": 3, "tags": ["a", 1], "one": "x"}, "plain": [1]})
    assert context.get_upstream_result("plain") == [1]
    assert context.get_upstream_result("unknown") is None
    assert context.get_all_upstream_results().keys() == {"extract", "plain"}
    assert context.get_upstream_value("extract", "rows") == 3
    assert context.get_upstream_value("plain", "rows", "d") == "d"
    assert (context.get_upstream_int("extract", "rows"), context.get_upstream_string("extract", "rows")) == (
        3,
        "3",
    )
    assert context.get_upstream_string_slice("extract", "tags") == ["a", "1"]
    assert context.get_upstream_string_slice("extract", "one") == ["x"]
    assert context.get_upstream_string_slice("extract", "none") == []
    with pytest.raises(InvalidArguments, match="result of extract: tags: expected an integer, got list"):
        context.get_upstream_int("extract", "tags")


def test_upstream_results_that_nobody_provides_are_a_conflict() -> None:
    with pytest.raises(Conflict):
        make_context().get_upstream_result("extract")


def test_sub_task_results_are_gathered_from_the_task_that_added_them() -> None:
    results = [
        {"task_id": 1, "task_name": "a", "status": "Success", "result": {"n": 1, "m": {"x": 1}, "s": "t"}},
        {"task_id": 2, "task_name": "b", "status": "Failed", "error": "no", "result": {"n": 2}},
        {"task_id": 3, "task_name": "c", "status": "succeeded", "result": 5},
    ]
    context = make_context(upstream={"plain": 1, "split": {"subtask_results": results}})
    assert context.get_sub_task_count() == 3 and context.get_sub_task_count("plain") == 0
    assert [each.task_name for each in context.get_successful_sub_task_results()] == ["a", "c"]
    assert context.get_failed_sub_task_results() == [SubTaskResult("2", "b", "Failed", {"n": 2}, "no")]
    assert not context.all_sub_tasks_succeeded() and context.all_sub_tasks_succeeded("plain")
    assert context.extract_from_sub_tasks("n") == [1]
    assert context.extract_maps_from_sub_tasks("m") == [{"x": 1}]
    assert context.extract_strings_from_sub_tasks("s") == ["t"]


def test_services_are_fetched_by_key() -> None:
    service = object()
    context = make_context(services={"db": service})
    assert context.get_dependency("db") is service
    assert context.has_dependency("db") and not context.has_dependency("mail")
    with pytest.raises(NotFound, match=r"no service 'mail' \(registered: db\)"):
        context.get_dependency("mail")


def test_its_logger_writes_every_level_to_the_attempt_s_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    context = make_context(write=world.write)
    context.log("plain")
    context.logger.debug("%s rows", 3)
    assert world.logged() == "plain\nDEBUG load: 3 rows\n"
    assert caplog.records == []


def test_wrong_arguments_of_a_log_call_do_not_reach_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    make_context().logger.info("%d", "x")


def test_being_cancelled_is_seen_and_raised() -> None:
    context = make_context()
    assert context.done(timeout=0) is False
    context.raise_if_cancelled()
    context._stopping.set()  # type: ignore[attr-defined]  # as the executor does
    assert context.cancelled and context.done() is True
    with pytest.raises(AttemptInterrupted):
        context.raise_if_cancelled()


async def test_async_code_can_wait_for_being_cancelled() -> None:
    stopping = Interruption()
    context = World().context(stopping=stopping)
    waiting = asyncio.create_task(context.done())
    stopping.set()
    await asyncio.wait_for(waiting, 5)


async def test_progress_and_sub_tasks_are_handed_on() -> None:
    world = World()
    context = world.context()
    await context.progress({"seen": {1}})
    assert world.reports == [{"seen": [1]}]
    tasks = [TaskSpec("a", "noop"), TaskSpec("b", "noop")]
    assert await context.add_sub_tasks(tasks) == [100, 101]
    assert await context.add_sub_task(TaskSpec("c", "noop")) == 100
    assert await context.add_sub_tasks([]) == []
    assert [spec.name for spec in world.spawned] == ["a", "b", "c"]


async def test_a_step_that_is_saved_is_not_done_again() -> None:
    world = World()
    calls = []

    async def fetch(url: str) -> Any:
        calls.append(url)
        return {"rows": (1, 2)}

    first = await world.context().step("fetch", fetch, "u")
    again = await world.context().step("fetch", fetch, "u")
    assert first == again == {"rows": [1, 2]}
    assert calls == ["u"]


async def test_a_step_may_be_plain_and_return_nothing() -> None:
    world = World()
    calls = []
    for _ in range(2):
        assert await world.context().step("note", calls.append, 1) is None
    assert calls == [1]


async def test_a_step_that_fails_is_done_again() -> None:
    world = World()

    def fail() -> None:
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await world.context().step("fetch", fail)
    with pytest.raises(PermanentError, match="the result of step 'odd' cannot be made into JSON"):
        await world.context().step("odd", object)
    assert world.steps.saved == {}


async def test_a_name_stands_for_one_step_of_an_attempt() -> None:
    context, calls = World().context(), []

    async def work() -> int:
        calls.append(1)
        await asyncio.sleep(0.001)
        return len(calls)

    message = re.escape(
        "step 'same' was taken already in this attempt: give each its own name, e.g. f'same {i}'"
    )
    got = await asyncio.gather(*(context.step("same", work) for _ in range(3)), return_exceptions=True)
    assert got[0] == 1 and len(calls) == 1
    for error in got[1:]:
        with pytest.raises(PermanentError, match=f"^{message}$"):
            raise error  # type: ignore[misc]
    with pytest.raises(PermanentError, match=message):
        await context.step("same", work)
    assert await context.step("other", work) == 2


async def test_a_step_that_has_raised_may_be_tried_again_at_once() -> None:
    world = World()
    context, answers = world.context(), iter([OSError("away"), 7])

    def fetch() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(OSError, match="away"):
        await context.step("fetch", fetch)
    assert await context.step("fetch", fetch) == 7


async def test_a_name_stands_for_one_sleep_of_an_attempt() -> None:
    context = World().context()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(context.sleep(0.05, "tick"), 0.001)
    await context.sleep(0.05, "tick")  # what is left of it
    with pytest.raises(PermanentError, match="sleep 'tick' was taken already"):
        await context.sleep(0.001, "tick")
    await context.step("tick", print)
    for _ in range(2):
        await context.sleep(0.001)


async def test_signals_of_one_name_may_be_waited_for_again() -> None:
    world = World()
    context = world.context()
    for number in range(2):
        world.steps.signal("next", number)
        assert await context.wait_for_signal("next") == number


def test_names_are_the_same_for_functions_that_block() -> None:
    world = World()
    context = make_context(ask=lambda port, *arguments: asyncio.run(world.ports.ask(port, *arguments)))
    assert context.step("same", lambda: 1) == 1
    context.sleep(0.001, "tick")
    for again in (lambda: context.step("same", lambda: 2), lambda: context.sleep(0.001, "tick")):
        with pytest.raises(PermanentError, match="was taken already"):
            again()


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, 1e12, timedelta.max])
async def test_a_time_that_no_database_stores_is_refused(seconds: Any) -> None:
    for context in (World().context(), make_context()):
        for wait in (context.sleep, lambda timeout, context=context: context.wait_for_signal("s", timeout)):
            with pytest.raises(PermanentError, match="at most 31536000000 seconds long, got"):
                result = wait(seconds)
                if inspect.isawaitable(result):
                    await result


async def test_a_sleep_is_slept_once() -> None:
    world = World()
    await world.context().sleep(0.001)
    # The first of the next attempt is the same one, which is over.
    await asyncio.wait_for(world.context().sleep(timedelta(hours=1)), 20)


async def test_a_signal_is_waited_for() -> None:
    world = World()
    waiting = asyncio.create_task(world.context().wait_for_signal("approved"))
    world.steps.signal("approved", {"by": "me"})
    assert await waiting == {"by": "me"}
    with pytest.raises(TimeoutError):
        await world.context().wait_for_signal("approved", timeout=0.001)


async def test_what_is_not_wired_is_a_conflict_that_names_it() -> None:
    context = World().context(ask=Ports().ask)
    with pytest.raises(Conflict, match="step_result is not available"):
        await context.step("x", print)
    with pytest.raises(Conflict, match="spawn is not available"):
        await context.add_sub_tasks([TaskSpec("a", "noop")])
    with pytest.raises(Conflict, match="workflow_id is not available"):
        await Ports(workflow_id="x").ask("workflow_id")
