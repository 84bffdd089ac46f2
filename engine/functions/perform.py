"""One call of a function, and whatever becomes of it as an outcome."""

from __future__ import annotations

import asyncio
import traceback

from engine.errors import (
    AttemptInterrupted,
    EngineError,
    InvalidArguments,
    PermanentError,
    RetryAfter,
    UnknownFunction,
)
from engine.functions.context import Context, SyncContext, Write
from engine.functions.function import Function
from engine.functions.results import to_json
from engine.model.outcomes import Failed, Outcome, Succeeded

_MAX_TRACEBACK = 10_000


def perform(function: Function, context: SyncContext) -> Outcome:
    """Call a plain function, where it may block."""
    try:
        return _outcome(function.call(**function.arguments(context)))
    except BaseException as error:  # whatever it does, it must not take the worker along
        return failed(error, context.write)


async def perform_async(function: Function, context: Context) -> Outcome:
    """Call an async function."""
    try:
        return _outcome(await function.call(**function.arguments(context)))
    except asyncio.CancelledError:
        calling = asyncio.current_task()
        if calling is None or calling.cancelling():
            raise
        return Failed(f'function "{function.name}" was cancelled, and not by the engine')
    except BaseException as error:
        return failed(error, context.write)


def failed(error: BaseException, write: Write) -> Failed:
    """The exception as a failure; where it was raised goes to the attempt's log."""
    match error:
        case InvalidArguments(problems=problems):
            wrong = {"problems": list(problems)}
            return Failed(str(error), code="invalid_params", is_permanent=True, details=wrong)
        case UnknownFunction():  # not for good: another worker may have it, or this one after its next start
            return Failed(str(error), code=error.code)
        case AttemptInterrupted():
            return Failed(str(error), code=error.code)
    write("log", _traceback(error))
    message = traceback.format_exception_only(error)[-1].strip()
    match error:
        case PermanentError():
            return Failed(str(error), code=error.code, is_permanent=True)
        case RetryAfter(seconds=seconds):
            return Failed(str(error), code=error.code, retryable=True, delay_ms=round(seconds * 1000))
        case EngineError():
            return Failed(message, code=error.code)
        case _:
            kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
            return Failed(message, details={"type": kind})


def _outcome(result: object) -> Outcome:
    """What a function returned. It may say more of how it ended with an outcome of its own."""
    match result:
        case Failed():
            return result
        case Succeeded():
            return Succeeded(to_json(result.result), result.branch, result.usage)
        case _:
            return Succeeded(to_json(result))


def _traceback(error: BaseException) -> str:
    """Without our own line at its top."""
    trace = error.__traceback__
    below = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    return "".join(traceback.format_exception(type(error), error, below))[-_MAX_TRACEBACK:]
