"""Every deliberate error of the engine. Each has a stable `code`; the message says what would be accepted.

EngineError
├── InvalidInput            the request itself is wrong; nothing was written
│   ├── GraphError          the graph breaks a rule
│   ├── WorkflowError       a workflow or its YAML breaks rules; tells all of them, each with its place
│   ├── ParamsError         parameters of a run are missing or of a wrong type
│   │   └── UnresolvedReference  they refer to a part of a result that is not there
│   ├── UnknownKind         no executor performs this kind
│   ├── InvalidExpression   a condition or value expression is not one we can evaluate
│   ├── UnknownFunction     no function is registered under this name
│   ├── InvalidArguments    a function cannot be called with these parameters
│   ├── InvalidCron         a cron expression breaks a rule; names the field
│   │   └── NeverFires      it is well formed, but no day matches it
│   ├── InvalidZone         not the name of a time zone
│   └── TooLarge            a published limit is exceeded
├── NotFound                no such run, task, token …
├── Conflict                the thing exists, but its state forbids the action
│   └── IdempotencyMismatch the key was used before with another body
├── Overloaded              refused before acceptance; try again later
├── StoreUnavailable        the database cannot be reached or refused us
├── SchemaMismatch          the database schema is behind or ahead of this release
├── ExpressionError         a valid expression has no value for these inputs, or not within its limits
├── EvaluatorUnavailable    the process that evaluates expressions cannot be started
├── LeaseLost               the attempt is no longer ours; nothing was written
├── ServerUnavailable       no Task Engine answers at the given URL
├── AccessDenied            the server wants a token, or one with more rights
├── PermanentError          raised by a function: trying again is useless
├── RetryAfter              raised by a function: try again, but not before so many seconds
├── AttemptInterrupted      raised into a function whose attempt has been told to stop
└── ConfigError             a setting is wrong; says which and what to do
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MAX_FAULTS = 100
MAX_PATH = 200  # characters


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    code = "engine_error"


class InvalidInput(EngineError):
    code = "invalid_input"


class GraphError(InvalidInput):
    code = "invalid_graph"


class Fault(NamedTuple):
    """One thing that is wrong, and where: `definitions[0].tasks[1].job_id (line 12, column 9): …`."""

    path: tuple[str | int, ...]
    message: str
    source: str = ""  # the file
    place: tuple[int, int] | None = None  # line and column, from 1

    def __str__(self) -> str:
        at = f"(line {self.place[0]}, column {self.place[1]})" if self.place else ""
        where = " ".join(filter(None, (path_text(self.path), at)))
        return ": ".join(filter(None, (self.source, where, self.message)))


def path_text(path: Iterable[str | int]) -> str:
    """`tasks[1].params["a b"]`; empty for the whole."""
    parts = (
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{_quoted(step)}]" for step in path
    )
    text = "".join(parts).removeprefix(".")
    return text if len(text) <= MAX_PATH else text[: MAX_PATH - 1] + "…"


def _quoted(step: str | int) -> str:
    return str(step) if isinstance(step, int) else '"' + step[:80].replace('"', '\\"') + '"'


class WorkflowError(InvalidInput):
    """A workflow breaks rules. `faults` are at most `MAX_FAULTS` of them; the message has one a line."""

    code = "invalid_workflow"

    def __init__(self, faults: Iterable[Fault]) -> None:
        found = list(faults)
        self.faults = found[:MAX_FAULTS]
        more = [f"… and {len(found) - MAX_FAULTS} more"] if len(found) > MAX_FAULTS else []
        super().__init__("\n".join([*map(str, self.faults), *more]))


class ParamsError(InvalidInput):
    code = "invalid_params"


class UnresolvedReference(ParamsError):
    code = "unresolved_reference"


class UnknownKind(InvalidInput):
    """No executor is registered for `kind`; `available` lists those that are."""

    code = "unknown_kind"

    def __init__(self, kind: str, available: list[str]) -> None:
        self.kind = kind
        self.available = available
        super().__init__(f"unknown task type: {kind} (available: {', '.join(available)})")


class InvalidCron(InvalidInput):
    """`field` is the part at fault: second … day of week, or expression."""

    code = "invalid_cron"

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class NeverFires(InvalidCron):
    code = "never_fires"


class InvalidZone(InvalidInput):
    code = "invalid_zone"


class UnknownFunction(InvalidInput):
    code = "unknown_function"

    def __init__(self, message: str, name: str = "") -> None:
        self.name = name
        super().__init__(message)


class InvalidArguments(InvalidInput):
    """`problems` lists each with its `path` in the parameters and a `message` that says what was expected."""

    code = "invalid_arguments"

    def __init__(self, message: str, problems: tuple[dict[str, str], ...] = ()) -> None:
        self.problems = problems
        super().__init__(message)


class InvalidExpression(InvalidInput):
    """`reason` at `line` and `column`, both from 1 on; None where the whole text is meant."""

    code = "invalid_expression"

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        self.reason = reason
        self.line = line
        self.column = column
        super().__init__(reason if line is None else f"line {line}, column {column}: {reason}")


class TooLarge(InvalidInput):
    code = "too_large"


class NotFound(EngineError):
    code = "not_found"


class Conflict(EngineError):
    code = "conflict"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class Overloaded(EngineError):
    """Refused before anything was written; `retry_after` in seconds."""

    code = "overloaded"

    def __init__(self, message: str, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StoreUnavailable(EngineError):
    """The database did not answer. Whether the last commit happened is unknown: look before repeating."""

    code = "store_unavailable"
    retry_after = 2


class SchemaMismatch(EngineError):
    code = "schema_mismatch"


class ExpressionError(EngineError):
    """The same inputs would give it again, unless it was the time limit on a busy machine."""

    code = "expression_failed"


class EvaluatorUnavailable(EngineError):
    """Says nothing about the expression. Try again later."""

    code = "evaluator_unavailable"


class LeaseLost(EngineError):
    code = "lease_lost"


class ServerUnavailable(EngineError):
    """The server cannot be reached, or what answers is not a Task Engine.

    `is_unknown`: the request was sent, so whether it took effect is not known. Look before repeating it.
    """

    code = "server_unavailable"

    def __init__(self, message: str, *, is_unknown: bool = False) -> None:
        self.is_unknown = is_unknown
        super().__init__(message)


class AccessDenied(EngineError):
    """The server wants a token, or one with more rights."""

    code = "access_denied"


class PermanentError(EngineError):
    """For functions to raise: the attempt fails, and the task with it, whatever retries it has left."""

    code = "permanent_failure"


class RetryAfter(EngineError):
    """For functions to raise: the attempt fails; if retries are left, the next one starts in `seconds`."""

    code = "retry_after"

    def __init__(self, seconds: float, message: str = "") -> None:
        self.seconds = seconds
        super().__init__(message or f"try again in {seconds:g} s")


class AttemptInterrupted(EngineError):
    """The attempt was cancelled, timed out, or its worker stops. What it still does changes nothing."""

    code = "interrupted"


class ConfigError(EngineError):
    code = "config_error"
