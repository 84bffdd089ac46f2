from __future__ import annotations

from engine.model.states import Move, RunState, TaskState
from engine.model.tally import Change, Tally


def tally(total: int, **fields: int) -> Tally:
    return Tally(run_id=1, state=RunState.PENDING, is_cancelling=False, event_count=1, total=total, **fields)


def change(source: TaskState, target: TaskState, kind: Move = Move.CLAIM) -> Change:
    return Change(1, kind, 7, 1, source, target)


START = change(TaskState.AVAILABLE, TaskState.RUNNING)
DONE = change(TaskState.RUNNING, TaskState.SUCCEEDED, Move.SUCCEED)
FAIL = change(TaskState.RUNNING, TaskState.FAILED, Move.FAIL)
STOP = change(TaskState.RUNNING, TaskState.CANCELLED, Move.CANCEL)
SKIP = change(TaskState.BLOCKED, TaskState.SKIPPED, Move.SKIP)
AGAIN = change(TaskState.FAILED, TaskState.BLOCKED, Move.RERUN)


def kinds(numbered: list[tuple[int, Change]]) -> list[str]:
    return [str(event.kind) for _, event in numbered]


def test_events_are_numbered_without_gaps() -> None:
    run = tally(2)
    numbered = run.apply([START, START]) + run.apply([DONE]) + run.apply([DONE])
    assert [number for number, _ in numbered] == [2, 3, 4, 5, 6, 7]
    assert kinds(numbered) == ["run.started", "started", "started", "succeeded", "succeeded", "run.succeeded"]
    assert run.event_count == 7


def test_a_run_starts_with_its_first_claim_only() -> None:
    run = tally(2)
    run.apply([change(TaskState.BLOCKED, TaskState.AVAILABLE, Move.UNBLOCK)])
    assert run.state is RunState.PENDING and not run.has_started
    run.apply([START])
    assert run.state is RunState.RUNNING and run.has_started


def test_verdicts() -> None:
    for ends, is_cancelling, verdict in (
        ([DONE, DONE], False, RunState.SUCCEEDED),
        ([DONE, SKIP], False, RunState.SUCCEEDED),
        ([DONE, FAIL], False, RunState.FAILED),
        ([STOP, FAIL], False, RunState.FAILED),
        ([DONE, STOP], False, RunState.CANCELLED),
        ([DONE, FAIL], True, RunState.CANCELLED),
        ([DONE, DONE], True, RunState.CANCELLED),
    ):
        run = tally(2, running=sum(end.source is TaskState.RUNNING for end in ends))
        run.state, run.is_cancelling = RunState.RUNNING, is_cancelling
        numbered = run.apply(ends)
        assert run.state is verdict
        assert kinds(numbered)[-1] == f"run.{verdict}"
        assert run.open == run.running == 0


def test_a_run_stays_open_until_the_last_task_has_ended() -> None:
    run = tally(2)
    run.apply([START, START])
    assert kinds(run.apply([FAIL])) == ["failed"]
    assert (run.state, run.open, run.running, run.failed) == (RunState.RUNNING, 1, 1, 1)


def test_a_paused_run_can_end() -> None:
    run = tally(1)
    run.apply([START])
    run.state = RunState.PAUSED
    run.apply([DONE])
    assert run.state is RunState.SUCCEEDED


def test_tasks_put_back_open_the_run_again() -> None:
    run = tally(1)
    run.apply([START, FAIL])
    assert run.state is RunState.FAILED
    run.apply([AGAIN])
    assert (run.state, run.open, run.failed) == (RunState.RUNNING, 1, 0)


def test_events_without_a_change_count_nothing() -> None:
    run = tally(1)
    assert kinds(run.apply([Change(1, "extended", 7)])) == ["extended"]
    assert (run.open, run.running, run.event_count) == (1, 0, 2)
