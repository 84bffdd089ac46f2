"""A function as a task: its name, how it runs, what it accepts, and how often it is tried."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from engine.errors import ConfigError, GraphError, InvalidArguments
from engine.functions.context import BaseContext
from engine.functions.signature import Signature, invalid, plain
from engine.model.graph import (
    DEFAULT_QUEUE,
    MAX_AT_MOST,
    MAX_LIMITS,
    Limit,
    TaskSpec,
    check_name,
    priority_level,
)
from engine.model.json import JSON
from engine.model.retry import Backoff, RetryPolicy
from engine.model.run_defaults import FunctionOptions
from engine.model.similar import near
from engine.model.specs import to_spec
from engine.model.workflows import FUNCTION


class How(StrEnum):
    ASYNC = "async"  # on the worker's event loop
    THREAD = "thread"  # of the worker; cannot be killed
    PROCESS = "process"  # of its own; for work that keeps a processor busy
    STREAM = "stream"  # on the event loop; yields the items of a streaming task


@dataclass(frozen=True, slots=True)
class Options:
    """How a task is performed, where its call does not say otherwise. `timeout_ms` holds per attempt."""

    retry: RetryPolicy = RetryPolicy()  # noqa: RUF009 - frozen
    timeout_ms: int | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        retries: int = 0,
        retry_delay: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int | str = 0,
        limits: Mapping[str, int] | None = None,
    ) -> Options:
        """From the words of `@task`. Raises `ConfigError`."""
        if retry is not None and (retries or retry_delay is not None):
            raise ConfigError("give either retry, or retries and retry_delay")
        try:
            check_name(queue, "queue")
            level = priority_level(priority)
            held = _limits(limits or {})
        except GraphError as error:
            raise ConfigError(str(error)) from None
        timeout_ms = None if timeout is None else _milliseconds(timeout, "timeout", least=1)
        return cls(retry or _retry(retries, retry_delay), timeout_ms, queue, level, held)

    def said(self) -> FunctionOptions:
        """Those that are not as they are when nothing is said."""
        return FunctionOptions(
            timeout_ms=self.timeout_ms,
            retry=None if self.retry == RetryPolicy() else self.retry,
            queue=None if self.queue == DEFAULT_QUEUE else self.queue,
            priority=self.priority or None,
            limits={limit.key: limit.at_most for limit in self.limits} or None,
        )


@dataclass(frozen=True, slots=True)
class Function:
    """`required` are parameters that may come from a dependency's result as well as from `params`."""

    name: str
    call: Callable[..., Any]
    how: How
    signature: Signature
    origin: str  # where the code stands, for people
    description: str = ""
    required: tuple[str, ...] = ()
    options: Options = Options()

    @classmethod
    def of(
        cls,
        call: Callable[..., Any],
        *,
        name: str | None = None,
        run_in: str | None = None,
        required: Iterable[str] = (),
        description: str | None = None,
        **options: Any,
    ) -> Function:
        """`options` are those of `Options.of`. Raises `ConfigError`."""
        if not callable(call):
            raise ConfigError(f"a task is made of a function, got {type(call).__name__}")
        written = call if hasattr(call, "__name__") else plain(call)  # a `partial` has none
        name = name or str(getattr(written, "__name__", type(written).__name__))
        where = f'function "{name}" ({origin(call)})'
        check_words(where, options, _WORDS)
        try:
            check_name(name, "its name")
            made = Options.of(**options)
        except (GraphError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}") from None
        if isinstance(required, str) or not isinstance(required, Iterable):
            raise ConfigError(f"{where}: required is a list of names, got {required!r:.80}")
        return cls(
            name=name,
            call=call,
            how=_how(call, run_in, where),
            signature=Signature.of(call, where),
            origin=origin(call),
            description=inspect.getdoc(written) or "" if description is None else description,
            required=tuple(required),
            options=made,
        )

    @property
    def takes_context(self) -> bool:
        return self.signature.context is not None

    def needs_upstream(self, params: Mapping[str, JSON]) -> bool:
        """Whether results of other tasks have to be read before it can be called."""
        return self.takes_context or any(name not in params for name in self.required)

    def complete(self, params: Mapping[str, JSON], upstream: Mapping[str, JSON]) -> dict[str, JSON]:
        """`params` with what is required and missing taken from `upstream`: the first that has it wins.

        Raises `InvalidArguments`.
        """
        completed = dict(params)
        for name in self.required:
            for result in upstream.values():
                if name not in completed and isinstance(result, dict) and name in result:
                    completed[name] = result[name]
        if missing := [name for name in self.required if name not in completed]:
            problems = tuple({"path": name, "message": "missing"} for name in missing)
            raise InvalidArguments(f"missing required params: [{', '.join(missing)}]", problems)
        return completed

    def arguments(self, context: BaseContext) -> dict[str, Any]:
        """What to call it with. Raises `InvalidArguments`."""
        try:
            arguments = self.signature.fill(self._accepted(context.params, context.facts.offered))
        except InvalidArguments as error:
            raise invalid(list(error.problems), f'invalid params of function "{self.name}"') from None
        if self.signature.context is not None:
            arguments[self.signature.context] = context
        return arguments

    def check(
        self,
        params: Mapping[str, JSON],
        is_open: Callable[[JSON], bool] = lambda value: False,
        offered: Collection[str] = (),
    ) -> None:
        """Raise `InvalidArguments` if it can never be called with `params`.

        What `is_open` says yes to is only known when the task runs, so it is not looked at.
        """
        problems = self.signature.problems(self._accepted(params, offered), is_open, later=self.required)
        if problems:
            raise invalid(problems, f'invalid params of function "{self.name}"')

    def schema(self) -> dict[str, Any]:
        """JSON Schema of `params`."""
        schema = self.signature.schema()
        if required := list(dict.fromkeys([*schema.get("required", ()), *self.required])):
            schema["required"] = required
        return {**({"description": self.description} if self.description else {}), **schema}

    def spec(
        self, params: Mapping[str, JSON] | None = None, name: str | None = None, **fields: Any
    ) -> TaskSpec:
        """A task that calls it. `fields` of `TaskSpec`, in the forms that `to_spec` takes, replace what its
        options say. Raises `GraphError`."""
        options = self.options
        return to_spec(
            {
                "name": name or self.name,
                "kind": FUNCTION,
                "params": {"function": self.name, "params": dict(params or {})},
                "retry": options.retry,
                "timeout_ms": options.timeout_ms,
                "queue": options.queue,
                "priority": options.priority,
                "limits": options.limits,
                **fields,
            }
        )

    def _accepted(self, params: Mapping[str, JSON], offered: Collection[str] = ()) -> Mapping[str, JSON]:
        """Without what is offered, or required, and no argument: it is there to be read from the context."""
        if self.signature.takes_any:
            return params
        only_read = {*self.required, *offered} - set(self.signature.names)
        return {name: value for name, value in params.items() if name not in only_read}


def origin(call: Callable[..., Any]) -> str:
    """`package.module.name, file:line`, as far as it can be told."""
    written = plain(call)
    name = f"{getattr(written, '__module__', '?')}.{getattr(written, '__qualname__', type(written).__name__)}"
    code = getattr(written, "__code__", None)
    return f"{name}, {code.co_filename}:{code.co_firstlineno}" if code else name


def _how(call: Callable[..., Any], run_in: str | None, where: str) -> How:
    called = _called(call)
    if inspect.isasyncgenfunction(called) and run_in in (None, How.STREAM):
        return How.STREAM
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigError(
            f"{where}: a task returns its result, it cannot yield; what does, as the source of a stream, is "
            "`async def`"
        )
    if inspect.iscoroutinefunction(called):
        if run_in not in (None, How.ASYNC):
            raise ConfigError(f"{where}: an async function runs on the event loop, not in a {run_in}")
        return How.ASYNC
    if run_in not in (None, How.THREAD, How.PROCESS):
        raise ConfigError(f'{where}: run_in is "thread" or "process" for a function that is not async')
    if run_in == How.PROCESS:
        _require_importable(call, where)
        return How.PROCESS
    return How.THREAD


def _called(call: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(call, partial):
        return _called(call.func)
    return call if inspect.isroutine(call) else getattr(call, "__call__", call)  # noqa: B004 - of an object


def _require_importable(call: Callable[..., Any], where: str) -> None:
    # Whatever name it was given later, its code knows where it was written.
    written = getattr(getattr(plain(call), "__code__", None), "co_qualname", "")
    is_bound = inspect.ismethod(call) and not isinstance(call.__self__, type)
    if isinstance(call, partial) or is_bound or "<" in written + getattr(call, "__qualname__", "<object>"):
        raise ConfigError(
            f"{where}: to run in a process it must be a function at the top of a module, so that the "
            "process can import it (a decorator keeps to that with functools.wraps)"
        )
    program = sys.modules.get("__main__")
    if call.__module__ == "__main__" and getattr(program, "__spec__", None) is None:
        file = getattr(program, "__file__", None)
        if file is None or not os.path.exists(file):
            raise ConfigError(
                f"{where}: to run in a process it must be in a file, so that the process can import it; this "
                "program was typed in"
            )


_WORDS = (*inspect.signature(Options.of).parameters, "name", "run_in", "required", "description")


def check_words(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises `ConfigError` for an option that is none."""
    for word in given:
        if word not in known:
            raise ConfigError(f"{where}: there is no option {word!r}{near(word, known)}")


def _limits(given: Mapping[str, int]) -> tuple[Limit, ...]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"limits are numbers by name, as in {{'gpu': 2}}, got {given!r:.80}")
    if len(given) >= MAX_LIMITS:  # one is the workflow's own
        raise ConfigError(f"has {len(given)} limits, at most {MAX_LIMITS - 1} are possible")
    for key, at_most in given.items():
        check_name(key, "limit")
        if not isinstance(at_most, int) or isinstance(at_most, bool) or not 1 <= at_most <= MAX_AT_MOST:
            raise ConfigError(f"limit {key!r} is an integer from 1 to {MAX_AT_MOST}, got {at_most!r:.80}")
    return tuple(Limit(key, at_most) for key, at_most in given.items())


def _retry(retries: int, delay: float | timedelta | None) -> RetryPolicy:
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries < 1_000:
        raise ConfigError(f"retries is an integer from 0 to 999, got {retries!r:.80}")
    if delay is None:
        return RetryPolicy(max_attempts=retries + 1)
    wait_ms = _milliseconds(delay, "retry_delay", least=0)
    return RetryPolicy(
        retries + 1, backoff=Backoff.FIXED, initial_ms=wait_ms, max_ms=max(wait_ms, 60_000), jitter=0
    )


def _milliseconds(value: float | timedelta, what: str, least: int) -> int:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not is_number or seconds * 1000 < least:
        raise ConfigError(
            f"{what} is a number of seconds or a timedelta, at least {least} ms, got {value!r:.80}"
        )
    return round(seconds * 1000)
