"""What tasks print and log: gathered, capped, and stored before their outcomes."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StoreUnavailable
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.process import run_process
from engine.model.outcomes import Outcome, Succeeded
from engine.model.records import Task
from engine.operations import runs, tasks
from engine.store.database import Database
from engine.worker import capture, logbook
from tests.executors.factories import make_lease
from tests.support.postgres import Cluster
from tests.worker.bench import ended, submit_one, until, working

pytestmark = pytest.mark.anyio


async def test_what_a_task_prints_and_logs_is_kept_up_to_a_limit(database: Database) -> None:
    async def loud(context: TaskContext, params: Any) -> Outcome:
        print("to stdout")
        sys.stderr.writelines(["to ", "stderr\n"])
        logging.getLogger("theirs").warning("a %s", "warning")
        try:
            raise KeyError("lost")
        except KeyError:
            logging.getLogger("theirs").exception("it failed")
        await asyncio.to_thread(print, "from a thread, \x00 and \udcff")
        context.log("odd \x00 stream", "kept\n")
        print("x" * (3 * logbook.MAX_LINE))
        print("no line end", end="")
        return Succeeded()

    async def flood(context: TaskContext, params: Any) -> Outcome:
        for _ in range(logbook.MAX_LINES + 10):
            print("again")
        return Succeeded()

    async with working(database, loud, flood, capture_output=True):
        first = await ended(database, await submit_one(database, "loud"))
        second = await ended(database, await submit_one(database, "flood"))
    lines = await runs.logs(database, first.run_id)
    texts = [(line.stream, line.text) for line in lines]
    told = texts.index(("log", "ERROR theirs: it failed"))
    assert texts[told + 1] == ("log", "Traceback (most recent call last):")
    assert texts[told + 4] == ("log", "KeyError: 'lost'")
    assert texts[:3] == [
        ("stdout", "to stdout"),
        ("stderr", "to stderr"),
        ("log", "WARNING theirs: a warning"),
    ]
    assert ("stdout", "from a thread, \\x00 and \\udcff") in texts
    assert ("odd \\x00 stream", "kept") in texts and ("stdout", "no line end") in texts
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    kept = await runs.logs(database, second.run_id, limit=20_000)
    assert len(kept) == logbook.MAX_LINES + 1 and "log is full" in kept[-1].text


async def test_what_a_process_prints_is_kept_line_by_line_while_it_runs(
    database: Database, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    script = f"seq 1 3; printf 'a\\r\\nno line end'; read x < {tmp_path / 'gate'}; echo; echo last"

    async def prints(context: TaskContext, params: Any) -> Outcome:
        await run_process(context, ["sh", "-c", script], settings=ExecutorSettings())
        return Succeeded()

    async def texts() -> list[str]:
        return [line.text for line in await runs.logs(database, run_id)]

    async def has_first() -> bool:
        return await texts() == ["1", "2", "3", "a"]

    async with working(database, prints):
        task_id = await submit_one(database, "prints")
        run_id = (await tasks.get(database, task_id)).run_id
        await until(has_first)
        await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
        await ended(database, task_id)
    assert await texts() == ["1", "2", "3", "a", "no line end", "last"]


async def test_bytes_that_a_task_writes_are_kept_as_text(
    database: Database, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def raw(context: TaskContext, params: Any) -> Outcome:
        sys.stdout.buffer.write(b"\xff binary, caf\xc3")
        sys.stdout.buffer.write(memoryview(b"\xa9\n"))
        wrapper = io.TextIOWrapper(sys.stdout.buffer)
        print("wrapped", file=wrapper)
        del wrapper
        sys.stdout.buffer.flush()
        print("not closed")
        return Succeeded()

    async with working(database, raw, capture_output=True):
        task = await ended(database, await submit_one(database, "raw"))
        sys.stdout.buffer.write(b"ours")
    assert await texts(database, task) == ["\ufffd binary, caf\u00e9", "wrapped", "not closed"]
    assert capsysbinary.readouterr().out == b"ours"


def test_log_record_with_wrong_arguments_does_not_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines: list[str] = []
    mark = capture.current.set(lambda stream, text: lines.append(text))
    try:
        record = logging.LogRecord("theirs", logging.WARNING, "file", 1, "wrong %d", ("argument",), None)
        capture._handler.handle(record)
    finally:
        capture.current.reset(mark)
    assert not lines


async def test_output_that_cannot_be_stored_costs_no_outcome(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def append_logs(*args: Any) -> None:
        raise ValueError("cannot be encoded")

    async def talk(context: TaskContext, params: Any) -> Outcome:
        context.log("stdout", "hello\n")
        return Succeeded()

    monkeypatch.setattr(tasks, "append_logs", append_logs)
    async with working(database, talk):
        for _ in range(2):
            assert (await ended(database, await submit_one(database, "talk"))).state == "succeeded"


# --- a database that is away


Append = Callable[..., Awaitable[None]]


def appends(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Append], Append]) -> None:
    monkeypatch.setattr(tasks, "append_logs", wrap(tasks.append_logs))


async def talk(context: TaskContext, params: Any) -> Outcome:
    for number in range(3):
        context.log("stdout", f"line {number}\n")
    return Succeeded()


async def texts(database: Database, task: Task) -> list[str]:
    return [line.text for line in await runs.logs(database, task.run_id)]


async def has(database: Database, task: Task, *lines: str) -> bool:
    return await texts(database, task) == list(lines)


async def test_lines_of_a_task_that_outlives_an_outage_are_all_kept(server_url: tuple[Cluster, str]) -> None:
    cluster, url = server_url
    may_talk, has_talked, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def survivor(context: TaskContext, params: Any) -> Outcome:
        context.log("stdout", "before\n")
        await may_talk.wait()
        context.log("stdout", "meanwhile\n")
        has_talked.set()
        await may_end.wait()
        context.log("stdout", "after\n")
        return Succeeded()

    refused = 0

    def counted(append: Append) -> Append:
        async def append_logs(*args: Any) -> None:
            nonlocal refused
            try:
                await append(*args)
            except StoreUnavailable:
                refused += 1
                raise

        return append_logs

    database = Database(url)
    with pytest.MonkeyPatch.context() as patched:
        appends(patched, counted)
        async with working(database, survivor, lease_seconds=60.0):
            task_id = await submit_one(database, "survivor")
            task = await tasks.get(database, task_id)
            await until(lambda: texts(database, task))
            await asyncio.to_thread(cluster.kill)
            may_talk.set()
            await has_talked.wait()
            await until(lambda: refused)
            await asyncio.to_thread(cluster.start)
            may_end.set()
            assert (await ended(database, task_id)).state == "succeeded"
            await until(lambda: has(database, task, "before", "meanwhile", "after"))
    database.close()


@pytest.mark.parametrize("is_stored", [False, True])
async def test_lines_that_were_not_acknowledged_are_stored_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    tries = 0

    def unanswered(append: Append) -> Append:
        async def append_logs(*args: Any) -> None:
            nonlocal tries
            tries += 1
            if is_stored or tries > 1:
                await append(*args)
            if tries == 1:
                raise StoreUnavailable("the connection was lost")

        return append_logs

    appends(monkeypatch, unanswered)
    async with working(database, talk):
        task = await ended(database, await submit_one(database, "talk"))
        await until(lambda: has(database, task, "line 0", "line 1", "line 2"))
    assert (task.state, tries) == ("succeeded", 2)


async def test_lines_that_cannot_be_stored_do_not_hold_up_their_outcome(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def never(append: Append) -> Append:
        async def append_logs(*args: Any) -> None:
            raise StoreUnavailable("the table is locked")

        return append_logs

    appends(monkeypatch, never)
    async with working(database, talk):
        assert (await ended(database, await submit_one(database, "talk"))).state == "succeeded"
    told = [(record.msg, record.fields["lines"]) for record in caplog.records if "output" in record.msg]
    assert told == [("worker.output_lost", 3)]


async def test_while_lines_cannot_be_stored_outcomes_do_not_try_them_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def never(append: Append) -> Append:
        async def append_logs(*args: Any) -> None:
            nonlocal tries
            tries += 1
            raise StoreUnavailable("the table is locked")

        return append_logs

    appends(monkeypatch, never)
    monkeypatch.setattr("engine.worker.finisher._LOG_SECONDS", 3_600.0)
    async with working(database, talk):
        for _ in range(3):
            assert (await ended(database, await submit_one(database, "talk"))).state == "succeeded"
        assert tries == 1


async def test_lines_that_nothing_has_room_for_are_told_in_their_place(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logbook, "MAX_WAITING", 1_000)
    may_end = asyncio.Event()

    async def flood(context: TaskContext, params: Any) -> Outcome:
        for number in range(10):
            context.log("stdout", f"line {number}\n")
        await may_end.wait()
        context.log("stdout", "last")
        return Succeeded()

    async with working(database, flood):
        task_id = await submit_one(database, "flood")
        task = await tasks.get(database, task_id)
        await until(lambda: texts(database, task))
        may_end.set()
        await ended(database, task_id)
    kept = await texts(database, task)
    assert kept == [
        *(f"line {number}" for number in range(4)),
        "[6 lines lost: they could not be stored in time]",
        "last",
    ]
    assert [line.number for line in await runs.logs(database, task.run_id)] == [1, 2, 3, 4, 5, 11]
    told = [(record.msg, record.fields["lines"]) for record in caplog.records if "output" in record.msg]
    assert told == [("worker.output_lost", 6)]


def test_of_a_line_that_is_written_again_the_last_state_is_kept() -> None:
    book = logbook.Logbook()
    log = book.open(make_lease())
    for percent in range(100_000):
        log.write("stderr", f"\r{percent / 1000:5.1f} % of it")
    log.write("stderr", "\n")
    for piece in ("one\r", "\ntwo\r\r\n", "10 %\r", "20 %\r", "done\n", "\r\n", "5 %\r6 %\r"):
        log.write("stdout", piece)
    log.close()
    kept = [text for *_, text in book.first(10)]
    assert kept == ["100.0 % of it", "one", "two", "done", "", "6 %"]


def test_a_line_may_be_written_while_one_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    book = logbook.Logbook()
    log = book.open(make_lease())
    was = logbook.storable_text

    def interrupted(text: str) -> str:
        if text == "outer":
            log.write("stderr", "by a signal handler\n")
        return was(text)

    monkeypatch.setattr(logbook, "storable_text", interrupted)
    writing = threading.Thread(target=log.write, args=("stdout", "outer\n"), daemon=True)
    writing.start()
    writing.join(5.0)
    assert {text for *_, text in book.first(10)} == {"outer", "by a signal handler"}
