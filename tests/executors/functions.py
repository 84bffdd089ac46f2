"""Functions that run in processes of their own, which import this module."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from engine.errors import PermanentError, RetryAfter
from engine.functions.context import SyncContext
from engine.functions.decorator import task


@task(run_in="process")
def square(n: int) -> int:
    return n * n


@task(run_in="process")
def by_id_in_a_process(ctx: SyncContext) -> Any:
    [told] = ctx.get_all_upstream_results().values()
    return ctx.get_upstream_result(told["id"])


@task(run_in="process")
def where() -> dict[str, Any]:
    kept = {key: value for key, value in os.environ.items() if key.startswith(("ENGINE_", "OTHER"))}
    return {"pid": os.getpid(), "environment": kept}


@task(run_in="process")
def talk() -> None:
    print("printed")
    print("complained", file=sys.stderr)
    logging.getLogger("mine").warning("%s rows", 3, exc_info=ValueError("too few"))
    ctypes.CDLL(None).puts(b"from C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["/bin/echo", "from a child"], check=True)


@task(run_in="process")
def fail(how: str) -> Any:
    match how:
        case "raise":
            raise ValueError("not that")
        case "permanent":
            raise PermanentError("never")
        case "later":
            raise RetryAfter(30)
        case "object":
            return {"a": object()}
        case "exit":
            sys.exit(3)
        case "kill":
            print("last words")
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(7)


@task(run_in="process")
def hang(note: str) -> None:
    """Says who it is, and starts a process without the mark and one that has only the mark."""
    unmarked = subprocess.Popen(["/bin/sleep", "300"], env={}, start_new_session=True)
    script = "setsid sleep 300 >/dev/null 2>&1 & echo $!"
    orphan = psutil.Process(int(subprocess.check_output(["/bin/sh", "-c", script])))
    while orphan.name() != "sleep" or "ENGINE_ATTEMPT_MARK" not in orphan.environ():
        time.sleep(0.001)  # it is being started
    Path(note).write_text(f"{os.getpid()} {unmarked.pid} {orphan.pid}\n")
    while True:
        sum(range(10_000))


@task(run_in="process")
def hang_politely(note: str, ctx: SyncContext) -> str:
    Path(note).write_text(f"{os.getpid()}\n")
    ctx.done()
    return "cleaned up"


@task(run_in="process")
def doze(note: str, ctx: SyncContext) -> None:
    Path(note).write_text(f"{os.getpid()}\n")
    ctx.sleep(3600)


@task(run_in="process")
def ask(ctx: SyncContext) -> dict[str, Any]:
    ctx.progress({"at": 1})
    ctx.log("asked")
    ctx.logger.info("and logged")
    return {
        "ids": ctx.add_sub_tasks([square.spec({"n": 2}, name="sub")]),
        "upstream": ctx.get_upstream_value("extract", "rows"),
        "service": ctx.get_dependency("limits")["most"],
        "again": ctx.get_dependency("limits") is ctx.get_dependency("limits"),
        "has": [ctx.has_dependency("limits"), ctx.has_dependency("none")],
        "step": ctx.step("one", lambda: 41 + ctx.attempt),
        "params": ctx.params,
        "thread": threading.current_thread() is threading.main_thread(),
    }


@task(run_in="process")
def use(key: str, ctx: SyncContext) -> Any:
    return ctx.get_dependency(key)


@task(run_in="process")
def wait_for_file(path: str, me: str) -> int:
    Path(me).write_text(f"{os.getpid()}\n")
    while not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()
