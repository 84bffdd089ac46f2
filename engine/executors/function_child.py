"""The process in which functions run that are given one of their own: one call after the other.

It is started by `function_process` and talks to it in frames on a socket: a length of four bytes, a pickle.

    to us    ("perform", Request)  ("reply", number, is_error, value)  ("stop",)
    from us  ("begun",)  ("log", text)  ("ask", number, port, arguments)  ("ended", Outcome)

The main thread calls; another reads, and ends the process at once when the other side is gone.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import runpy
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from engine.errors import AttemptInterrupted, ConfigError
from engine.functions.context import Facts, SyncContext
from engine.functions.decorator import TaskFunction
from engine.functions.function import Function
from engine.functions.log_handler import LogHandler
from engine.functions.perform import failed, perform
from engine.functions.ports import WAITING
from engine.model.json import JSON
from engine.model.outcomes import Outcome

LENGTH = struct.Struct("!I")
MAIN = "__main__"

_MAIN_COPY = "__mp_main__"  # as `multiprocessing` calls it: `if __name__ == "__main__"` does not hold
_importing_main = False


@dataclass(frozen=True, slots=True)
class Main:
    """How the program was started, for functions of its main module."""

    module: str | None
    path: str | None
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Request:
    """One call. The function is found by `module` and `qualname`, so it has to be importable."""

    module: str
    qualname: str
    main: Main
    facts: Facts
    params: Mapping[str, JSON]
    upstream: dict[str, JSON] | None
    services: Sequence[str]
    environment: Mapping[str, str]


def refuse_while_importing_main() -> None:
    """Raises `ConfigError` in a process that is only to import the program, not to run it once more."""
    if _importing_main:
        raise ConfigError(
            "functions of the main module run in processes, which import it: keep what the program does "
            'below `if __name__ == "__main__":`'
        )


def main(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as connection:
        _Child(connection).live()


class _Child:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._asked: dict[int, tuple[str, Future[Any]]] = {}  # which port
        self._numbers = iter(range(1, sys.maxsize))
        self._stopping = threading.Event()

    def live(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # files, at this time
        logging.getLogger().addHandler(LogHandler(partial(self.send, "log")))
        threading.Thread(target=self._listen, name="engine-parent", daemon=True).start()
        while True:
            request = self._requests.get()
            self.send("begun")
            outcome = self._perform(request)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            self.send("ended", outcome)

    def send(self, *message: Any) -> None:
        content = pickle.dumps(message)
        with self._sending:
            self._connection.sendall(LENGTH.pack(len(content)) + content)

    def ask(self, port: str, *arguments: Any) -> Any:
        """Have the other side call a port, and wait for what it answers."""
        answer: Future[Any] = Future()
        with self._sending:
            number = next(self._numbers)
        self._asked[number] = port, answer
        self.send("ask", number, port, arguments)
        return answer.result()

    def _perform(self, request: Request) -> Outcome:
        def write(stream: str, text: str) -> None:
            self.send("log", stream, text)

        self._stopping = threading.Event()
        context = SyncContext(
            request.facts,
            request.params,
            stopping=self._stopping,
            ask=self.ask,
            write=write,
            upstream=request.upstream,
            services=_Services(request.services, self),
        )
        with _environment(request.environment):
            try:
                function = _find(request)
            except BaseException as error:  # an import can raise anything
                return failed(error, write)
            return perform(function, context)

    def _listen(self) -> None:
        try:
            while True:
                match pickle.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0])):  # noqa: S301 - ours
                    case ("perform", Request() as request):
                        self._requests.put(request)
                    case ("reply", int(number), bool(is_error), value):
                        self._answer(number, is_error, value)
                    case ("stop",):
                        self._stop()
        finally:
            os._exit(1)  # the worker is gone, and whoever would want the result with it

    def _answer(self, number: int, is_error: bool, value: Any) -> None:
        _, answer = self._asked.pop(number, ("", None))
        if answer is None:  # nobody waits any more
            return
        answer.set_exception(value) if is_error else answer.set_result(value)

    def _stop(self) -> None:
        self._stopping.set()
        for number, (port, _) in list(self._asked.items()):
            if port in WAITING:
                self._answer(number, True, AttemptInterrupted("the attempt was told to stop"))

    def _read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            chunk = self._connection.recv(size - len(content))
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)


class _Services(Mapping[str, Any]):
    """Services of the worker, each fetched when it is first asked for."""

    def __init__(self, keys: Sequence[str], child: _Child) -> None:
        self._keys = keys
        self._child = child
        self._fetched: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._fetched:
            if key not in self._keys:
                raise KeyError(key)
            self._fetched[key] = pickle.loads(self._child.ask("service", key))  # noqa: S301 - ours
        return self._fetched[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """What the function starts carries the attempt's markers, so that leftovers of it are found."""
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _find(request: Request) -> Function:
    found: Any = _main_module(request.main) if request.module == MAIN else import_module(request.module)
    for name in request.qualname.split("."):
        found = getattr(found, name)
    return found.function if isinstance(found, TaskFunction) else Function.of(found)


def _main_module(program: Main) -> Any:
    """The program's main module, imported once under another name: what it does as a program is left out."""
    global _importing_main
    if _MAIN_COPY not in sys.modules:
        sys.argv[:] = program.arguments
        _importing_main = True
        try:
            if program.module is not None:
                content = runpy.run_module(program.module, run_name=_MAIN_COPY, alter_sys=True)
            elif program.path is not None:
                content = runpy.run_path(program.path, run_name=_MAIN_COPY)
            else:
                raise ConfigError("functions typed into an interpreter cannot run in a process")
        finally:
            _importing_main = False
        module = type(sys)(_MAIN_COPY)
        module.__dict__.update(content)
        sys.modules[_MAIN_COPY] = sys.modules[MAIN] = module
    return sys.modules[_MAIN_COPY]
