"""Processes that call functions: kept for the next call, killed when an attempt is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from engine.errors import ConfigError, EngineError
from engine.executors.child import MARK
from engine.executors.function_child import LENGTH, MAIN, Main, Request
from engine.executors.output import Capture
from engine.executors.process import in_thread
from engine.executors.processes import descendants, kill_marked, signal_each, signal_group
from engine.model.outcomes import Failed, Outcome

SESSION = "ENGINE_SESSION"  # by which leftovers of a dead worker are found

# The import path comes first, as the engine itself may have to be found there.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from engine.executors.function_child import main; main(int(sys.argv[1]))"
)
_OURS = ("ENGINE_", "EXECGO_")
_CHUNK_BYTES = 64 * 1024
_MOST_CHUNKS = 16  # more than a pipe holds: what comes later comes from processes that were left behind
_END_SECONDS = 10.0  # a process in uninterruptible sleep may outlast it

Log = Callable[[str, str], None]  # (stream, text)
Ask = Callable[..., Awaitable[Any]]  # (port, *arguments)


class ProcessGone(Exception):
    """It ended before it was done; `has_begun` the call."""

    def __init__(self, has_begun: bool) -> None:
        self.has_begun = has_begun
        super().__init__()


class FunctionProcess:
    """One process, used by one call at a time, from one event loop."""

    def __init__(
        self,
        session: str,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.session = session
        self.pid = process.pid
        self._is_killed = False
        self._process = process
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._output: dict[int, Capture | None] = {}  # by descriptor; None while nobody is to hear it
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._output[stream.fileno()] = None
            self._loop.add_reader(stream.fileno(), self._read_output, stream.fileno())

    @classmethod
    async def start(cls, session: str) -> Self:
        ours, theirs = socket.socketpair()
        spawned = in_thread(lambda: _spawn(theirs, session), name="engine-spawn")
        try:
            process = await asyncio.shield(spawned)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            await asyncio.wait({spawned}, timeout=_END_SECONDS)
            if spawned.done() and spawned.exception() is None:
                await in_thread(lambda: _discard(spawned.result()), name="engine-reap")
            raise
        return cls(session, process, reader, writer)

    @property
    def is_usable(self) -> bool:
        return not (self._is_killed or self._reader.at_eof() or self._reader.exception())

    async def perform(self, request: Request, log: Log, ask: Ask, output_bytes: int) -> Outcome:
        """Call a function. Raises `ProcessGone`. If this is cancelled, only `kill` may follow."""
        captures = [Capture(name, output_bytes, log) for name in ("stdout", "stderr")]
        self._output.update(zip(self._output, captures, strict=True))
        answers: set[asyncio.Task[None]] = set()
        has_begun = False
        try:
            self._send("perform", request)
            while True:
                match await self._receive():
                    case ("begun",):
                        has_begun = True
                    case ("log", str(stream), str(text)):
                        log(stream, text)
                    case ("ask", int(number), str(port), arguments):
                        answer = asyncio.create_task(self._answer(number, ask(port, *arguments)))
                        answers.add(answer)
                        answer.add_done_callback(answers.discard)
                    case ("ended", outcome):
                        self._read_all()
                        result: Outcome = outcome
                        return result
        except (EOFError, OSError):
            self._read_all()
            raise ProcessGone(has_begun) from None
        finally:
            for answer in answers:
                answer.cancel()
            for descriptor in self._output:
                self._output[descriptor] = None
            for capture in captures:
                capture.finish()

    def stop(self) -> None:
        """Tell the function that it is to end."""
        with contextlib.suppress(OSError):
            self._send("stop")

    async def kill(self, mark: str | None = None) -> int:
        """End it, its descendants, and what carries `mark`; returns what it exited with.

        Goes on if it is cancelled.
        """
        self._is_killed = True
        ended = in_thread(lambda: self._end(mark), name="engine-reap")
        try:
            return await asyncio.shield(ended)
        finally:
            self._close()

    def _end(self, mark: str | None) -> int:
        # Noted while their parent lives: one that is being started has no mark yet, for a moment.
        if self._process.returncode is None:  # after that its number may be a stranger's
            connected = descendants(self.pid)
            signal_group(self.pid, signal.SIGKILL)
            signal_each(connected, signal.SIGKILL)
        if mark is not None:
            kill_marked(MARK, mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_SECONDS)
        return -signal.SIGKILL

    def _close(self) -> None:
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            if not stream.closed:
                self._loop.remove_reader(stream.fileno())
                stream.close()
        self._output.clear()
        self._writer.close()

    def _send(self, *message: Any) -> None:
        content = pickle.dumps(message)
        self._writer.write(LENGTH.pack(len(content)) + content)

    async def _receive(self) -> Any:
        size = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))[0]
        return pickle.loads(await self._reader.readexactly(size))  # noqa: S301 - a process of ours

    async def _answer(self, number: int, asked: Awaitable[Any]) -> None:
        try:
            value, is_error = await asked, False
        except Exception as error:  # raised there instead of here
            value, is_error = _portable(error), True
        self._send("reply", number, is_error, value)

    def _read_output(self, descriptor: int) -> bool:
        """Take what is there; whether there may be more."""
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(descriptor)
            return False
        if capture := self._output.get(descriptor):
            capture.feed(chunk)
        return True

    def _read_all(self) -> None:
        """What was written before the last message: the loop may have seen that one first."""
        for descriptor in self._output:
            for _ in range(_MOST_CHUNKS):
                if not self._read_output(descriptor):
                    break


class Processes:
    """At most `most` of them, each started when it is needed. A call that finds none free waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._slots = asyncio.Semaphore(most)
        self._idle: list[FunctionProcess] = []
        self._lent = 0

    @asynccontextmanager
    async def lend(self, session: str) -> AsyncIterator[FunctionProcess]:
        """A process of this worker session. Whoever has killed it does not give it back."""
        async with self._slots:
            self._lent += 1
            try:
                process = await self._take(session)
                yield process
                if process.is_usable:
                    self._idle.append(process)
            finally:
                self._lent -= 1

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.kill() for process in idle))

    async def _take(self, session: str) -> FunctionProcess:
        for process in reversed(self._idle):
            if process.session == session and process.is_usable:
                self._idle.remove(process)
                return process
        if len(self._idle) + self._lent > self._most:  # the room is taken by those of others, or by dead ones
            await self._idle.pop(0).kill()
        return await FunctionProcess.start(session)


def program() -> Main:
    """How this program was started."""
    found = sys.modules[MAIN]
    spec = getattr(found, "__spec__", None)
    path = getattr(found, "__file__", None)
    module = None if spec is None else str(spec.name)
    return Main(module, None if path is None else str(Path(path).absolute()), tuple(sys.argv))


def crashed(name: str, code: int) -> Failed:
    """The outcome of a call whose process is gone."""
    how = f"exit status {code}" if code >= 0 else f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
    return Failed(f'the process of function "{name}" ended: {how}', code="process_ended", retryable=True)


def _spawn(theirs: socket.socket, session: str) -> subprocess.Popen[bytes]:
    with theirs:
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env={**_inherited(os.environ), SESSION: session},
            start_new_session=True,
        )


def _discard(process: subprocess.Popen[bytes]) -> None:
    with process:  # waits, and closes its pipes
        process.kill()


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's own, as threads have it, without our settings: the database's password is among them."""
    return {key: value for key, value in environment.items() if not key.startswith(_OURS)}


def _portable(error: Exception) -> Exception:
    """The error if it survives the way to another process, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what we have just made
    except Exception:  # whatever a class of somebody else's makes of it
        return EngineError(f"{type(error).__name__}: {error}")
    return error


def picklable(service: Any, key: str) -> bytes:
    """A service for another process. Raises `ConfigError`."""
    try:
        return pickle.dumps(service)
    except Exception as error:  # as above
        raise ConfigError(
            f"service {key!r} cannot be sent to a process ({type(error).__name__}: {error}); make it there, "
            "or run the function in a thread"
        ) from None
