"""Evaluates expressions in warm child processes, so that no expression can stop, fill or crash the caller.

A child that is late is killed. One that has died (killed from outside, crashed, out of memory) is replaced
and the evaluation repeated once: evaluations change nothing, and it may not have been their fault.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Self

import msgspec

from engine.errors import EvaluatorUnavailable, ExpressionError
from engine.expressions.child import MAX_RESULT_BYTES, OUT_OF_MEMORY
from engine.expressions.syntax import Path, parse
from engine.model.json import JSON

MAX_CONTEXT_BYTES = 8 * 1024 * 1024  # of what an expression refers to; as large as a task's result may be

_START_SECONDS = 30.0  # takes 0.1; on a machine that is busy beyond reason, more
_DEATH_SECONDS = 5.0  # from the end of its pipes to that of the process
_ALARM_SECONDS = 1.0  # after the time is over: the child ends itself when nobody is left to kill it


class Evaluator:
    """Starts its children when they are first needed. Callers beyond their number wait, first come first
    served; the time limit begins when a child has the expression. Belongs to one event loop.
    """

    def __init__(self, *, timeout_seconds: float = 1.0, memory_mib: int = 256, processes: int = 1) -> None:
        """The limit on memory is one on address space, 30 MiB of which are the child's own (Linux only)."""
        self._timeout_seconds = timeout_seconds
        self._memory_mib = memory_mib
        self._children = [_Child(memory_mib, timeout_seconds + _ALARM_SECONDS) for _ in range(processes)]
        self._idle = list(self._children)
        self._turns = asyncio.Semaphore(processes)  # a queue would let a busy caller pass those who wait

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def evaluate(self, text: str, context: dict[str, JSON]) -> JSON:
        """Raises `ExpressionError` if the expression has no value, `InvalidExpression` if it is none.

        Raises `EvaluatorUnavailable` if no child can be started: that says nothing about the expression.
        """
        request = _request(text, pick(context, parse(text).paths))
        async with self._turns:
            child = self._idle.pop()
            try:
                reply = await self._ask(child, request)
            finally:
                self._idle.append(child)
        if "error" in reply:
            raise ExpressionError(reply["error"])
        return reply["value"]

    async def condition(self, text: str, context: dict[str, JSON]) -> bool:
        value = await self.evaluate(text, context)
        if not isinstance(value, bool):
            shown = msgspec.json.encode(value).decode()
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            raise ExpressionError(f"a condition is true or false, this gave {shown}")
        return value

    async def close(self) -> None:
        """End the children. What is being evaluated or waits fails with `EvaluatorUnavailable`."""
        for child in self._children:
            await child.close()

    async def _ask(self, child: _Child, request: bytes) -> dict[str, Any]:
        try:
            try:
                return await child.ask(request, self._timeout_seconds)
            except _Died:
                return await child.ask(request, self._timeout_seconds)
        except TimeoutError:
            raise ExpressionError(f"not done after {self._timeout_seconds:g} s") from None
        except _Died as death:
            raise ExpressionError(self._explain(death.returncode)) from None

    def _explain(self, returncode: int) -> str:
        if returncode == OUT_OF_MEMORY:
            return f"needs more than {self._memory_mib} MiB of memory"
        return f"its process died twice ({_describe(returncode)}); it may need more memory than it can have"


class _Died(Exception):
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
        super().__init__(returncode)


class _Child:
    """Our side of one process. `ask` is called by one caller at a time, and leaves it idle or ended."""

    def __init__(self, memory_mib: int, alarm_seconds: float) -> None:
        self._limits = (str(memory_mib), str(alarm_seconds))
        self._process: asyncio.subprocess.Process | None = None
        self._is_closed = False

    async def ask(self, request: bytes, seconds: float) -> dict[str, Any]:
        """Raises `TimeoutError`, `_Died` or `EvaluatorUnavailable`."""
        process = self._process or await self._start()
        try:
            async with asyncio.timeout(seconds):
                await _send(process, request)
                return await _receive(process)
        except BaseException as error:
            # Also for a caller that was cancelled: the answer must not go to the next.
            returncode = await self.end(is_dead=_says_dead(error))
            if not _says_dead(error):
                raise
            raise _Died(returncode) from None

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            self._refuse_closed()
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "engine.expressions.child",
                *self._limits,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},  # it finds what we find
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
            async with asyncio.timeout(_START_SECONDS):
                await _receive(process)
            self._refuse_closed()  # while it was started
            return process
        except BaseException as error:
            returncode = await self.end(is_dead=_says_dead(error))
            if not isinstance(error, OSError | EOFError):
                raise
            reason = _describe(returncode) if _says_dead(error) else str(error) or "it says nothing"
            raise EvaluatorUnavailable(f"the process for expressions does not start: {reason}") from None

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise EvaluatorUnavailable("the evaluator is closed")

    async def close(self) -> None:
        self._is_closed = True
        await self.end()

    async def end(self, *, is_dead: bool = False) -> int:
        """Kill the process and return how it ended, which was before and by itself if it `is_dead`."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if is_dead:  # asyncio would lose the exit status if we killed a process that has just died
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    return await process.wait()
        with suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def _says_dead(error: BaseException) -> bool:
    """The ends of its pipes are closed, which it never does while it lives."""
    return isinstance(error, EOFError | ConnectionError)


async def _send(process: asyncio.subprocess.Process, message: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(len(message).to_bytes(4, "big") + message)
    await process.stdin.drain()


async def _receive(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    size = int.from_bytes(await process.stdout.readexactly(4), "big")
    if size > MAX_RESULT_BYTES:
        raise EOFError("nothing that a child would say")
    return msgspec.json.decode(await process.stdout.readexactly(size), type=dict[str, Any])


def pick(value: JSON, paths: Iterable[Path]) -> JSON:
    """What `paths` lead to in `value`, and nothing else of the objects on the way."""
    if not isinstance(value, dict):
        return value
    below: dict[str, list[Path]] = {}
    for path in paths:
        if not path:
            return value
        below.setdefault(path[0], []).append(path[1:])
    return {name: pick(value[name], rest) for name, rest in below.items() if name in value}


def _request(text: str, context: JSON) -> bytes:
    try:
        request = msgspec.json.encode({"text": text, "context": context})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ExpressionError(f"a value that it reads is not JSON: {error}") from None
    if len(request) > MAX_CONTEXT_BYTES:
        raise ExpressionError(f"it reads {len(request)} bytes, the limit is {MAX_CONTEXT_BYTES}")
    return request


def _describe(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    return (signal.strsignal(-returncode) or f"signal {-returncode}").lower()
