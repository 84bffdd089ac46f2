"""Executors that behave badly, for worker processes of their own; `tests.chaos.ledger` installs them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.process import run_process
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded
from engine.store.bookkeeping import lock_tallies
from engine.store.database import Database, Transaction


class _Kind:
    category = "test"

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings

    def check(self, params: JSON) -> None: ...


class Poison(_Kind):
    """Kills its worker process."""

    kind = "poison"

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still here")


class Blocker(_Kind):
    """Blocks, for `seconds`, the interpreter lock, the event loop, or every thread of the default pool."""

    kind = "blocker"

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        seconds = params["seconds"]
        match params["what"]:
            case "interpreter":
                ctypes.PyDLL(None).sleep(seconds)
            case "loop":
                time.sleep(seconds)
            case "threads":
                await asyncio.gather(*[asyncio.to_thread(time.sleep, seconds) for _ in range(8)])
        return Succeeded()


class Stopper(_Kind):
    """At its first attempt stops its worker by a signal, inside a transaction that has its run locked."""

    kind = "stopper"

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        if context.lease.attempt == 1:
            await Database(params["url"], wake_others=False).run(_lock_and_stop, context.lease.run_id)
        return Succeeded()


def _lock_and_stop(tx: Transaction, run_id: int) -> None:
    lock_tallies(tx, [run_id])
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # by this thread, so that it goes no further


class Tree(_Kind):
    """First leaves a process that has cut every tie; says at later attempts whether that still lives."""

    kind = "tree"

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        note = Path(params["note"])
        if note.exists():
            return Succeeded({"survives": lives(int(note.read_text()))})
        script = f"(setsid sh -c 'echo $$ > {note}.new; mv {note}.new {note}; exec sleep 300' &) ; sleep 300"
        await run_process(context, ["/bin/sh", "-c", script], settings=self._settings)
        return Succeeded()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # not every init reaps at once
    except psutil.Error:
        return False
