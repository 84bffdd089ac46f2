"""`task-engine saga`: what undoes a failed run, and what people do about compensations that failed."""

from __future__ import annotations

from typing import Any

import rich_click as click

from engine.api.continuation_wire import CompensationTask, Saga
from engine.cli.options import NAME, RUN_ID, reason_option
from engine.cli.output import one_line, print_json, say, say_done, show_facts, show_table
from engine.cli.target import Target, with_target
from engine.client.answers import typed
from engine.model.sagas import SagaState

_ILL = ("failed", "cancelled")
run_argument = click.argument("run_id", metavar="RUN", type=RUN_ID)


@click.group("saga")
def saga() -> None:
    """Show what undoes a run; retry, skip and sign off compensations that failed.

    RUN is the number of the run, or of the instance, that is undone.
    """


@saga.command("show")
@run_argument
@with_target
def show(target: Target, run_id: int, as_json: bool) -> None:
    """Show the compensations of a run; before it has ended, what would be undone if it failed now."""
    document = target.saga(run_id)
    if as_json:
        print_json(document)
        return
    found = typed(document, Saga)
    show_facts(
        [
            ("run", found.run_id),
            ("state", found.state),
            ("undone by run", found.compensation_run_id),
            ("signed off by", found.signed_off_by),
            ("reason", one_line(found.reason, 500) or None),
        ]
    )
    if found.compensations:
        say("")
        _show_compensations(found.compensations)
    elif found.undos:
        say("")
        _show_undos(found)


def _show_compensations(compensations: list[CompensationTask]) -> None:
    show_table(
        ("STEP", "TASK", "KIND", "STATE", "ATTEMPTS", "ERROR"),
        (
            (
                step,
                one_line(task.name, 60),
                one_line(task.kind, 30),
                "skipped" if task.is_skipped else task.state,
                task.attempt or "",
                one_line(_explained(task), 200),
            )
            for step, task in enumerate(compensations, 1)
        ),
        right=("STEP", "ATTEMPTS"),
    )


def _explained(task: CompensationTask) -> str | None:
    """Why a compensation did not succeed or, if it is skipped, who said so and why."""
    if task.is_skipped:
        return f"{task.skipped_by}: {task.skip_reason}"
    error = task.last.error if task.last else None
    return str(error.get("message")) if error else task.reason


def _show_undos(found: Saga) -> None:
    show_table(
        ("STEP", "TASK", "WOULD BE UNDONE BY", ""),
        (
            (step, one_line(undo.task, 60), _performer(undo.kind, undo.params), _doubt(undo.is_unknown))
            for step, undo in enumerate(found.undos, 1)
        ),
        right=("STEP",),
    )


def _performer(kind: str, params: Any) -> str:
    """The name of a function says more than its kind."""
    function = params.get("function") if isinstance(params, dict) else None
    return one_line(f"{kind} {function}" if isinstance(function, str) else kind, 60)


def _doubt(is_unknown: bool) -> str:
    return "nobody knows how far it came" if is_unknown else ""


# --- control


@saga.command("retry")
@run_argument
@with_target
def retry(target: Target, run_id: int, as_json: bool) -> None:
    """Run compensations that failed once more, but for skipped ones."""
    _tell(target.retry_saga(run_id), as_json=as_json)


@saga.command("skip")
@run_argument
@click.argument("tasks", metavar="TASK...", type=NAME, nargs=-1, required=True)
@reason_option(is_required=True)
@with_target
def skip(target: Target, run_id: int, tasks: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Give up compensations of these tasks that failed: no retry runs them. All of them, or none."""
    _tell(target.skip_saga(run_id, tasks, reason), as_json=as_json)


@saga.command("sign-off")
@run_argument
@reason_option(is_required=True)
@with_target
def sign_off(target: Target, run_id: int, reason: str, as_json: bool) -> None:
    """Declare that somebody has taken care of all compensations that failed."""
    _tell(target.sign_off_saga(run_id, reason), as_json=as_json)


def _tell(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    found = typed(document, Saga)
    left = ""
    if found.state is SagaState.FAILED:
        names = [each.name for each in found.compensations if each.state in _ILL and not each.is_skipped]
        left = f"; left: {one_line(', '.join(names), 200)}"
    say_done(f"Saga of run {found.run_id}: {found.state}{left}")
