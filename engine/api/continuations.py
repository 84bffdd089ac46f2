"""Routes that act on how a run goes on or back: signals to it, and the saga that undoes it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import FromPath, QueryParameter

from engine.api.answers import Problem
from engine.api.bodies import check_values, decode, read_small_body
from engine.api.continuation_wire import (
    CompensationTask,
    Saga,
    SignalIn,
    SignalOut,
    Signals,
    SignalSent,
    SignOffIn,
    SkipIn,
    UndoOut,
)
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import id_of, name_of, task_out
from engine.model.records import Task
from engine.model.sagas import Skip
from engine.operations import sagas, steps
from engine.operations.sagas import SagaReport

Limit = Annotated[int, QueryParameter(ge=1, le=500)]
Offset = Annotated[int, QueryParameter(ge=0, le=1_000_000_000)]
_signal: msgspec.json.Decoder[SignalIn] = msgspec.json.Decoder(SignalIn)
_skip: msgspec.json.Decoder[SkipIn] = msgspec.json.Decoder(SkipIn)
_sign_off: msgspec.json.Decoder[SignOffIn] = msgspec.json.Decoder(SignOffIn)


# --- signals


@post(
    "/api/v1/runs/{run_id:str}/signals/{name:str}",
    status_code=202,
    operation_class=body_operation("SignalIn"),
    responses=refusals(Problem, 400, 404, 409, 413, 422, 503),
    summary="Send a signal to a run",
    tags=["Signals"],
)
async def send_signal(request: ApiRequest, run_id: FromPath[str], name: FromPath[str]) -> SignalSent:
    """It ends one wait for this name, the one that began first, be it now or later."""
    number, word = id_of(run_id, "run"), name_of(text_of_segment(name), "signal")
    body = await read_small_body(request)
    payload = decode(_signal, body).payload if body.strip() else None
    check_values("payload", payload)
    sent = await steps.send_signal(
        services_of(request).database, number, word, payload, actor=actor_of(request)
    )
    return SignalSent(number, word, sent)


@get(
    "/api/v1/runs/{run_id:str}/signals",
    responses=refusals(Problem, 404, 422, 503),
    summary="Signals that a run was sent",
    tags=["Signals"],
)
async def list_signals(
    request: ApiRequest, run_id: FromPath[str], limit: Limit = 100, offset: Offset = 0
) -> Signals:
    """Oldest first."""
    number = id_of(run_id, "run")
    found = await steps.list_signals(services_of(request).database, number, limit=limit, offset=offset)
    return Signals(
        number,
        [SignalOut(row.number, row.name, row.payload, row.at, row.actor, row.taken_by) for row in found],
    )


# --- sagas


@get(
    "/api/v1/runs/{run_id:str}/saga",
    responses=refusals(Problem, 404, 503),
    summary="What is undone, or would be",
    tags=["Sagas"],
)
async def show_saga(request: ApiRequest, run_id: FromPath[str]) -> Saga:
    return saga_out(await sagas.get(services_of(request).database, id_of(run_id, "run")))


@post(
    "/api/v1/runs/{run_id:str}/saga/retry",
    status_code=200,
    responses=refusals(Problem, 404, 409, 503),
    summary="Run failed compensations again",
    tags=["Sagas"],
)
async def retry_saga(request: ApiRequest, run_id: FromPath[str]) -> Saga:
    database = services_of(request).database
    return saga_out(await sagas.retry(database, id_of(run_id, "run"), actor=actor_of(request)))


@post(
    "/api/v1/runs/{run_id:str}/saga/skip",
    status_code=200,
    operation_class=body_operation("SkipIn"),
    responses=refusals(Problem, 400, 404, 409, 413, 422, 503),
    summary="Declare that single failed compensations are not run again",
    tags=["Sagas"],
)
async def skip_saga(request: ApiRequest, run_id: FromPath[str]) -> Saga:
    """All of those that are named, or none. Once all that failed are skipped, the saga is signed off."""
    wanted = decode(_skip, await read_small_body(request))
    check_values("tasks", wanted.tasks)
    check_values("reason", wanted.reason)
    report = await sagas.skip(
        services_of(request).database,
        id_of(run_id, "run"),
        wanted.tasks,
        reason=wanted.reason,
        actor=actor_of(request),
    )
    return saga_out(report)


@post(
    "/api/v1/runs/{run_id:str}/saga/sign-off",
    status_code=200,
    operation_class=body_operation("SignOffIn"),
    responses=refusals(Problem, 400, 404, 409, 413, 503),
    summary="Declare failed compensations taken care of",
    tags=["Sagas"],
)
async def sign_off_saga(request: ApiRequest, run_id: FromPath[str]) -> Saga:
    reason = decode(_sign_off, await read_small_body(request)).reason
    check_values("reason", reason)
    database = services_of(request).database
    report = await sagas.sign_off(database, id_of(run_id, "run"), reason=reason, actor=actor_of(request))
    return saga_out(report)


def saga_out(report: SagaReport) -> Saga:
    return Saga(
        report.run_id,
        report.state,
        report.compensation_run_id,
        [
            UndoOut(undo.name, undo.compensation.kind, undo.compensation.params, undo.is_unknown)
            for undo in report.undos
        ],
        [_compensation(task, report.skips.get(task.id)) for task in report.compensations],
        report.signed_off_by,
        report.reason,
    )


def _compensation(task: Task, skip: Skip | None) -> CompensationTask:
    return CompensationTask(
        **msgspec.structs.asdict(task_out(task)),
        is_skipped=skip is not None,
        skipped_by=None if skip is None else skip.actor,
        skip_reason=None if skip is None else skip.reason,
    )


ROUTES = [send_signal, list_signals, show_saga, retry_saga, skip_saga, sign_off_saga]
