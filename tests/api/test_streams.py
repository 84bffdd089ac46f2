"""Status changes pushed over WebSockets, by real servers to real clients."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.routes import WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.api import access, sockets, streams
from engine.api.access import SOCKET_ROOT, SOCKETS
from engine.api.positions import Position
from engine.api.server import new_event_loop
from engine.api.streams import Tail
from engine.definitions import read_workflows
from engine.errors import InvalidInput
from engine.model.outcomes import Failed, Succeeded
from engine.operations import executions, runs, tasks, tokens, workflows
from engine.store.database import Database
from tests.api.test_server import HOST, Running, head_of, running
from tests.factories import request, rows, session_async, write

pytestmark = pytest.mark.anyio
LINE = "load -> price -> book"
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that serves in earnest."""
    return "asyncio", {"loop_factory": new_event_loop}


@pytest.fixture
async def server(database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(database, tmp_path) as server:
        yield server


# --- what happens


async def save(database: Database, name: str = "orders", chain: str = LINE) -> str:
    names = [part.strip() for part in chain.split("->")]
    listed = "".join(
        f"        - {{task_id: {task}, kind: noop, dependencies: [{above}]}}\n"
        for above, task in zip(["", *names], names, strict=False)
    )
    text = f"workflows:\n  definitions:\n    - workflow_id: {name}\n      tasks:\n{listed}"
    found = read_workflows(text, checks=await workflows.checks(database))
    return (await workflows.save(database, found))[0].id


async def start(database: Database, name: str = "orders", chain: str = LINE) -> int:
    await save(database, name, chain)
    return (await executions.execute(database, name)).run_id


async def work(database: Database, *failing: str, rounds: int = 1_000_000, code: str = "no") -> None:
    """Run whatever can run, at most so many tasks one after the other; the named ones fail."""
    worker = await session_async(database)
    for _ in range(rounds):
        leases = await tasks.claim(database, request(worker, 1), actor="worker")
        if not leases:
            return
        failed = Failed("it broke", code=code, is_permanent=True)
        ended = [(lease, failed if lease.name in failing else Succeeded({"ok": 1})) for lease in leases]
        await tasks.finish(database, ended, actor="worker")


async def numbers_of(database: Database, run_id: int) -> list[int]:
    found = await runs.events(database, run_id, limit=100_000)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    return [event.number for event in found]


# --- clients


def url_of(server: Running, path: str, after: Any = None) -> str:
    return f"ws://127.0.0.1:{server.port}{SOCKET_ROOT}{path}" + ("" if after is None else f"?after={after}")


def listening(server: Running, path: str, after: Any = None, **options: Any) -> connect:
    return connect(url_of(server, path, after), proxy=None, **options)


async def told(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        message: dict[str, Any] = json.loads(await socket.recv())
    return message


async def told_until(
    socket: ClientConnection, is_last: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    found = [await told(socket)]
    while not is_last(found[-1]):
        found.append(await told(socket))
    return found


def ends(run_id: int, status: str = "Success") -> Callable[[dict[str, Any]], bool]:
    expected = ("instance_status", str(run_id), status)
    return lambda message: (message["type"], message["instance_id"], message["status"]) == expected


async def everything(socket: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """All messages until the server closes, and the code it gives."""
    found = []
    try:
        while True:
            found.append(await told(socket))
    except ConnectionClosed as closed:
        return found, None if closed.rcvd is None else closed.rcvd.code


async def refused(server: Running, path: str, after: Any = None, **options: Any) -> tuple[int, Any]:
    """The status and the body of the answer to a handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with listening(server, path, after, **options):
            pass
    response = caught.value.response
    assert response.headers["x-trace-id"]
    body = json.loads(response.body or b"{}")
    assert body["code"] == response.status_code
    return response.status_code, body["message"]


# --- what docs/rest.md says


async def test_the_example_of_the_docs_works(
    database: Database, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "rest.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page.partition("## WebSockets")[2], re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example.replace("localhost:8080", f"localhost:{server.port}"), scope)
    run_id = await start(database)
    await work(database, "book")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await scope["follow"](str(run_id))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(await numbers_of(database, run_id))
    assert lines[-2:] == ["book Failed it broke", "instance Failed it broke"]


# --- one instance


async def test_every_change_of_an_instance_is_told_in_order(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}") as socket:
        first = await told(socket)
        await work(database)
        rest, code = await everything(socket)
    assert first == {
        "type": "instance_status",
        "instance_id": str(run_id),
        "status": "Ready",
        "progress": {"total": 3, "completed": 0, "running": 0, "failed": 0, "pending": 3},
        "timestamp": first["timestamp"],
        "number": 1,
    }
    assert [first["number"], *(message["number"] for message in rest)] == await numbers_of(database, run_id)
    assert [(message.get("task_name"), message["status"]) for message in rest] == [
        (None, "Running"),
        ("load", "Running"),
        ("load", "Success"),
        ("price", "Pending"),
        ("price", "Running"),
        ("price", "Success"),
        ("book", "Pending"),
        ("book", "Running"),
        ("book", "Success"),
        (None, "Success"),
    ]
    assert all((message["type"] == "task_status") == ("task_id" in message) for message in rest)
    assert rest[-1]["progress"]["completed"] == 3
    assert all(datetime.fromisoformat(message["timestamp"]).tzinfo for message in rest)
    assert code == 1000


async def test_an_instance_that_has_ended_is_told_and_closed(database: Database, server: Running) -> None:
    run_id = await start(database)
    await work(database)
    last = (await numbers_of(database, run_id))[-1]
    async with listening(server, f"instances/{run_id}") as socket:
        [message], code = await everything(socket)
        assert (message["status"], message["number"], code) == ("Success", last, 1000)
    async with listening(server, f"instances/{run_id}", after=0) as socket:
        found, code = await everything(socket)
        assert ([message["number"] for message in found], code) == (await numbers_of(database, run_id), 1000)
    async with listening(server, f"instances/{run_id}", after=last) as socket:
        assert await everything(socket) == ([], 1000)


async def test_failures_say_why(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        await work(database, "price", code="timeout")
        found, _ = await everything(socket)
    by_task = {message.get("task_name"): message for message in found}
    assert by_task["load"].get("error") is None
    assert (by_task["price"]["status"], by_task["price"]["error"]) == ("TimeoutFailed", "it broke")
    assert by_task["book"]["status"] == "Failed"
    assert "price" in by_task["book"]["error"]
    assert (by_task[None]["status"], by_task[None]["error"]) == ("Failed", "it broke")
    assert by_task[None]["progress"]["failed"] == 2


async def test_control_is_told_whoever_does_it(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        for act, status in ((runs.hold, "Paused"), (runs.resume, "Ready")):
            await act(database, run_id)
            await told_until(socket, ends(run_id, status))
        await work(database, rounds=1)
        await runs.hold(database, run_id)
        await told_until(socket, ends(run_id, "Paused"))
        await runs.resume(database, run_id)
        await told_until(socket, ends(run_id, "Running"))
        await runs.cancel(database, run_id)
        found, code = await everything(socket)
    cancelling, ended = (message for message in found if message["type"] == "instance_status")
    assert (cancelling["status"], cancelling["error"]) == ("Running", "context canceled")
    assert ended["status"] == "Terminated"
    last = {message["task_name"]: message["status"] for message in found if "task_id" in message}
    assert set(last.values()) == {"Cancelled"}
    assert code == 1000


async def test_an_instance_that_is_retried_goes_on_where_the_reader_was(
    database: Database, server: Running
) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=0) as socket:
        await work(database, "book")
        before, _ = await everything(socket)
    await runs.retry(database, run_id)
    async with listening(server, f"instances/{run_id}", after=before[-1]["number"]) as socket:
        await work(database)
        after, code = await everything(socket)
    numbers = [message["number"] for message in before + after]
    assert (numbers, code) == (await numbers_of(database, run_id), 1000)
    assert (after[0]["status"], after[-1]["status"]) == ("Running", "Success")


async def test_a_removed_instance_ends_its_stream(database: Database, server: Running) -> None:
    run_id = await start(database)
    await work(database, "load")
    async with AsyncExitStack() as stack:
        await runs.retry(database, run_id)
        socket = await stack.enter_async_context(listening(server, f"instances/{run_id}"))
        await told(socket)
        write(database, "DELETE FROM workflow_run")
        write(database, "DELETE FROM event")
        write(database, "DELETE FROM run")
        assert await everything(socket) == ([], 4404)


# --- readers that come and go


async def cut_at_random(
    choose: Callable[[], str], key: str, seen: list[dict[str, Any]], chance: random.Random
) -> None:
    """Read a few messages, cut the line, come back with the last `key`; until the server closes with 1000."""
    after: Any = 0
    while True:
        async with connect(f"{choose()}?after={after}", proxy=None) as socket:
            try:
                for _ in range(chance.randint(1, 9)):
                    seen.append(await told(socket))
                    after = seen[-1][key]
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                assert closed.rcvd.code == 1000
                return
            socket.transport.abort()


async def test_clients_cut_at_random_see_every_event_of_an_instance_once(
    database: Database, server: Running
) -> None:
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(25)))
    seen: list[list[dict[str, Any]]] = [[] for _ in range(10)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for seed, found in enumerate(seen):
            path = url_of(server, f"instances/{run_id}")
            group.create_task(cut_at_random(lambda path=path: path, "number", found, random.Random(seed)))  # type: ignore[misc]
        await work(database)
    expected = await numbers_of(database, run_id)
    for found in seen:
        assert [message["number"] for message in found] == expected


async def hop(
    choose: Callable[[], str], expected: Counter[str], done: asyncio.Event, chance: random.Random
) -> list[dict[str, Any]]:
    """As `cut_at_random`, with cursors, until there is nothing more to come."""
    seen: list[dict[str, Any]] = []
    after = "0"
    while not (done.is_set() and len(seen) >= expected.total()):
        async with connect(f"{choose()}?after={after}", proxy=None) as socket:
            for _ in range(chance.randint(1, 40)):
                if done.is_set() and len(seen) >= expected.total():
                    break
                try:
                    async with asyncio.timeout(None if done.is_set() else 0.3):
                        seen.append(json.loads(await socket.recv()))
                except TimeoutError:
                    break
                after = seen[-1]["cursor"]
            socket.transport.abort()
    return seen


async def check_workflow_readers(database: Database, servers: list[Running], count: int) -> None:
    """Runs start, end, fail and are retried, while readers are cut and come back to any of `servers`."""
    workflow_id = await save(database)
    done, expected = asyncio.Event(), Counter[str]()
    paths = [url_of(server, f"workflows/{workflow_id}") for server in servers]

    async def act() -> None:
        chance, failed = random.Random(7), list[int]()
        started = []
        for number in range(count):
            for _ in range(chance.randint(1, 3)):
                started.append((await executions.execute(database, workflow_id)).run_id)
            await work(database, *(["book"] if number % 3 == 0 else []))
            states = [await runs.get(database, run_id) for run_id in started]
            failed = [run.id for run in states if run.failed]
            if failed and number % 4 == 3:
                await runs.retry(database, failed[0])
        for run_id in started:
            expected[str(run_id)] = len(await numbers_of(database, run_id))
        done.set()

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(act())
        readers = []
        for seed in range(5):
            chance = random.Random(seed)
            choose = lambda chance=chance: chance.choice(paths)  # noqa: E731
            readers.append(group.create_task(hop(choose, expected, done, chance)))
    for reader in readers:
        by_run: dict[str, list[int]] = {}
        for message in reader.result():
            by_run.setdefault(message["instance_id"], []).append(message["number"])
        assert by_run == {run_id: list(range(1, last + 1)) for run_id, last in expected.items()}


async def test_clients_cut_at_random_see_every_event_of_a_workflow_once(
    database: Database, server: Running
) -> None:
    await check_workflow_readers(database, [server], 12)


async def test_runs_that_ended_a_while_ago_leave_the_cursor_and_are_told_once(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_LAG", timedelta(seconds=1))
    monkeypatch.setattr(streams, "_STEP", timedelta(seconds=0.1))
    monkeypatch.setattr(streams, "_ENDED_RUNS", 2)
    await check_workflow_readers(database, [server], 25)


async def test_two_servers_on_one_database_tell_the_same(row_locking_url: str, tmp_path: Path) -> None:
    here, there = Database(row_locking_url), Database(row_locking_url)
    try:
        async with running(here, tmp_path) as one, running(there, tmp_path) as other:
            await check_workflow_readers(here, [one, other], 10)
            run_id = await start(here)
            async with listening(other, f"instances/{run_id}", after=0) as socket:
                await work(here)
                found, code = await everything(socket)
            assert ([message["number"] for message in found], code) == (
                await numbers_of(here, run_id),
                1000,
            )
    finally:
        here.close()
        there.close()


# --- workflows


async def test_a_workflow_tells_what_is_alive_and_what_starts_later(
    database: Database, server: Running
) -> None:
    ended = await start(database)
    await work(database)
    alive = await start(database)
    other = await start(database, "another")
    async with listening(server, "workflows/orders") as socket:
        first = await told(socket)
        assert (first["instance_id"], first["status"]) == (str(alive), "Ready")
        later = (await executions.execute(database, "orders")).run_id
        await work(database)
        found = await told_until(socket, ends(later))
    seen = {message["instance_id"] for message in found}
    assert seen == {str(alive), str(later)}
    assert str(ended) not in seen
    assert str(other) not in seen
    of_later = [message["number"] for message in found if message["instance_id"] == str(later)]
    assert of_later == await numbers_of(database, later)


async def test_a_workflow_without_living_instances_tells_the_newest(
    database: Database, server: Running
) -> None:
    workflow_id = await save(database)
    async with listening(server, f"workflows/{workflow_id}") as socket:  # nothing to tell yet
        first = (await executions.execute(database, workflow_id)).run_id
        assert ((await told(socket))["instance_id"]) == str(first)
    await work(database)
    async with listening(server, f"workflows/{workflow_id}") as socket:
        message = await told(socket)
        assert (message["status"], message["number"]) == ("Success", 11)
        assert message["cursor"]


async def test_cursors_stay_small_and_right_with_many_old_runs(database: Database, server: Running) -> None:
    """A retried old run, a new run and one with a low id that is committed late are told; old ones not."""
    workflow_id = await save(database, chain="load")
    old = [(await executions.execute(database, workflow_id)).run_id for _ in range(30)]
    late = old.pop(3)
    await work(database, "load")
    for table, column in (("run", "finished_at"), ("run", "started_at"), ("event", "at")):
        age(database, table, column)
    kept = take_away(database, late)
    async with listening(server, f"workflows/{workflow_id}") as socket:
        cursor = (await told(socket))["cursor"]
    assert len(cursor) < 30
    put_back(database, kept)
    await runs.retry(database, late)
    await runs.retry(database, old[5])
    new = (await executions.execute(database, workflow_id)).run_id
    await work(database)
    expected = {
        str(new): await numbers_of(database, new),
        str(old[5]): (await numbers_of(database, old[5]))[5:],
    }
    async with listening(server, f"workflows/{workflow_id}", after=cursor) as socket:
        by_run: dict[str, list[int]] = {}
        while not expected.items() <= by_run.items() or str(late) not in by_run:
            message = await told(socket)
            by_run.setdefault(message["instance_id"], []).append(message["number"])
            assert len(message["cursor"]) < 80
    assert by_run.keys() == {str(new), str(old[5]), str(late)}


def age(database: Database, table: str, column: str) -> None:
    ago = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    cast = "CAST(:ago AS timestamptz)" if not database.is_private and database.dialect.locks_rows else ":ago"
    write(database, f"UPDATE {table} SET {column} = {cast}", ago=ago)


def take_away(database: Database, run_id: int) -> list[Any]:
    found = rows(database, "SELECT * FROM workflow_run WHERE run_id = :run_id", run_id=run_id)
    write(database, "DELETE FROM workflow_run WHERE run_id = :run_id", run_id=run_id)
    return found


def put_back(database: Database, found: list[Any]) -> None:
    [row] = found
    write(
        database,
        "INSERT INTO workflow_run (run_id, workflow_id, workflow_name, version)"
        " VALUES (:run_id, :workflow_id, :workflow_name, :version)",
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_name=row.workflow_name,
        version=row.version,
    )


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.dictionaries(st.integers(1, 2**63 - 1), st.integers(0, 2**31 - 1), max_size=500),
)
def test_a_cursor_is_read_as_it_was_written(until: datetime, marks: dict[int, int]) -> None:
    position = Position.of_cursor(Position(until, marks).cursor())
    assert (position.until, position.marks) == (until, marks)


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    try:
        position = Position.of_cursor(text)
    except InvalidInput as error:
        assert "?after" in str(error)
    else:
        assert position.until.tzinfo is UTC


def test_a_cursor_fits_into_a_url_however_many_runs_are_alive() -> None:
    now = datetime.now(UTC)
    marks = {run_id * 1_000_003: 2**31 - run_id for run_id in range(1, 100_000)}
    cursor = Position(now, marks).cursor()
    assert len(cursor) < 7_800
    assert len(Position.of_cursor(cursor).marks) == 500


# --- many readers, slow readers


async def test_readers_share_what_is_read(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 of one instance, or of its workflow: the database is asked by one."""
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(10)))
    reads = Counter[str]()
    read = database.read

    async def counted(work: Any, *args: Any) -> Any:
        reads[getattr(work, "__name__", "?")] += 1
        return await read(work, *args)

    async with AsyncExitStack() as stack:
        paths = [f"instances/{run_id}"] * 100 + ["workflows/orders"] * 100
        open_ones = [await stack.enter_async_context(listening(server, path)) for path in paths]
        for socket in open_ones:
            await told(socket)
        monkeypatch.setattr(database, "read", counted)
        working = asyncio.create_task(work(database))
        found = await asyncio.gather(*(told_until(socket, ends(run_id)) for socket in open_ones))
        await working
    expected = (await numbers_of(database, run_id))[1:]
    assert all([message["number"] for message in messages] == expected for messages in found)
    assert reads.keys() <= {"_answer", "<lambda>", "session", "get_run"}
    assert reads["page"] == 0


async def test_a_reader_that_never_reads_holds_up_nobody_and_is_cut_off(
    database: Database, tmp_path: Path
) -> None:
    chain = " -> ".join(f"t{number}-{'x' * 150}" for number in range(1500))
    async with running(database, tmp_path, write_timeout_seconds=1.0) as server:
        run_id = await start(database, chain=chain)
        await runs.cancel(database, run_id)  # 1,500 events and more, at once
        deaf = await shake_hands(server, f"instances/{run_id}?after=0", receive_bytes=4096)
        async with listening(server, f"instances/{run_id}", after=0) as socket:
            found, code = await everything(socket)
        assert ([message["number"] for message in found], code) == (await numbers_of(database, run_id), 1000)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while server.app.state.services.tail._runs:  # until nobody follows
                await asyncio.sleep(0.02)
        deaf[1].close()


async def test_a_slow_reader_reads_on_from_the_table(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_RECENT_EVENTS", 5)
    monkeypatch.setattr(streams, "_PAGE_EVENTS", 7)
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(20)))
    async with listening(server, f"instances/{run_id}", after=0, max_queue=1) as socket:
        await told(socket)
        await work(database)
        found, code = await everything(socket)
    expected = (await numbers_of(database, run_id))[1:]
    assert ([message["number"] for message in found], code) == (expected, 1000)


# --- who may listen


async def bearer(database: Database, *scopes: Any) -> str:
    return await tokens.create(database, name="test", scopes=list(scopes))


@asynccontextmanager
async def guarded(database: Database, folder: Path, **changes: Any) -> AsyncIterator[Running]:
    limits: Any = {"require_token": True, "bootstrap_token": "b" * 40, **changes}
    async with running(database, folder, **limits) as server:
        yield server


async def test_sockets_need_a_token_like_everything_else(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    reader, submitter = await bearer(database, "read"), await bearer(database, "submit")
    async with guarded(database, tmp_path) as server:
        assert (await refused(server, path))[0] == 401
        assert (await refused(server, "nothing"))[0] == 401
        assert (await refused(server, f"{path}?token={reader}"))[0] == 401
        assert (await refused(server, f"{path}?access_token={reader}"))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer"]))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer", "te_wrong"]))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer", submitter]))[0] == 403
        header = {"Authorization": f"Bearer {submitter}"}
        assert (await refused(server, path, additional_headers=header))[0] == 403
        header = {"Authorization": f"Bearer {reader}"}
        assert (await refused(server, "nothing", additional_headers=header))[0] == 404
        async with listening(server, path, additional_headers=header) as socket:
            assert socket.subprotocol is None
            await told(socket)
        async with listening(server, path, subprotocols=["bearer", reader]) as socket:
            assert socket.subprotocol == "bearer"
            await told(socket)


async def test_a_revoked_token_ends_its_sockets(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(access, "_FRESH_SECONDS", 0.05)
    run_id = await start(database)
    reader, other = await bearer(database, "read"), await bearer(database, "read")
    async with guarded(database, tmp_path) as server:
        path = f"instances/{run_id}"
        async with (
            listening(server, path, subprotocols=["bearer", reader]) as socket,
            listening(server, path, subprotocols=["bearer", other]) as kept,
        ):
            await told(socket)
            await tokens.revoke(database, reader.split("_")[1])
            assert await everything(socket) == ([], 4401)
            assert (await told(kept))["number"] == 1
            await work(database)
            assert (await everything(kept))[1] == 1000


async def test_pages_of_other_sites_may_not_listen(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    async with running(database, tmp_path, cors_origins=("https://board.example",)) as server:
        for origin in ("https://evil.example", "null", f"http://localhost:{server.port}"):
            assert (await refused(server, path, origin=origin))[0] == 403
        header = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert (await refused(server, path, additional_headers=header))[0] == 403
        for origin in (f"http://127.0.0.1:{server.port}", "https://board.example"):
            async with listening(server, path, origin=origin) as socket:
                await told(socket)
        answer = await server.exchange(handshake(path, host=b"evil.example"))
        assert head_of(answer).split(b" ")[1] == b"403"
        answer = await server.exchange(handshake(path, extra=HOST))
        assert head_of(answer).split(b" ")[1] == b"400"


async def test_every_socket_has_a_scope(server: Running) -> None:
    served = {route.path_format for route in server.app.routes if isinstance(route, WebSocketRoute)}
    assert served == set(SOCKETS)


# --- refusals


async def test_what_is_not_there_is_refused_before_the_upgrade(database: Database, server: Running) -> None:
    plain = await runs_without_workflow(server)
    for path in (
        "instances/777",
        "instances/x",
        f"instances/{plain}",
        "workflows/wf-none",
        "nothing",
        "a/b/c",
    ):
        assert (await refused(server, path))[0] == 404, path


async def runs_without_workflow(server: Running) -> int:
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})
    run_id: int = answer.json()["run_id"]
    return run_id


async def test_what_is_no_place_to_go_on_is_refused(database: Database, server: Running) -> None:
    run_id = await start(database)
    for after in ("-1", "x", "", 2**63, 2, "9" * 5_000, "%00"):
        status, message = await refused(server, f"instances/{run_id}", after)
        assert (status, "after" in message) == (400, True), after
    ahead = Position(datetime.now(UTC) + timedelta(hours=1), {}).cursor()
    for after in ("-1", "x", "", "%00", "AAAA", ahead):
        status, message = await refused(server, "workflows/orders", after)
        assert (status, "after" in message) == (400, True), after


async def test_http_is_told_that_it_is_a_socket(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with httpx.AsyncClient(base_url=server.url) as client:
        response = await client.get(f"{SOCKET_ROOT}instances/{run_id}")
        assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
        assert (await client.get(f"{SOCKET_ROOT}nothing")).status_code == 404


async def test_sockets_are_limited_in_number(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    async with running(database, tmp_path, max_sockets=2) as server:
        async with listening(server, path) as one, listening(server, path) as other:
            await told(one)
            await told(other)
            assert (await refused(server, path))[0] == 503
            async with httpx.AsyncClient(base_url=server.url) as client:
                assert (await client.get("/health")).status_code == 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:  # until the server has seen that they have gone
                try:
                    async with listening(server, path):
                        break
                except InvalidStatus:
                    continue
    reader = await bearer(database, "read")
    async with (
        guarded(database, tmp_path, max_sockets_each=1) as server,
        listening(server, path, subprotocols=["bearer", reader]) as socket,
    ):
        await told(socket)
        assert (await refused(server, path, subprotocols=["bearer", reader]))[0] == 429
        async with listening(server, path, subprotocols=["bearer", "b" * 40]) as another:
            await told(another)


# --- what clients send


KEY = b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"


def handshake(path: str, *, host: bytes = b"localhost", extra: bytes = KEY + VERSION) -> bytes:
    target = f"GET {SOCKET_ROOT}{path} HTTP/1.1\r\n".encode()
    return target + b"Host: " + host + b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + extra + b"\r\n"


async def shake_hands(
    server: Running, path: str, *, extra: bytes = b"", receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that speaks raw frames, behind the head of the answer."""
    import socket

    line = socket.socket()
    if receive_bytes is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=line, limit=receive_bytes or 65536)
    writer.write(handshake(path, extra=KEY + VERSION + extra))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head_of(head) == b"HTTP/1.1 101 Switching Protocols", head
    assert b"permessage-deflate" not in head
    return reader, writer


def frame(opcode: int, payload: bytes = b"", *, first: int = 0x80, masked: bool = True) -> bytes:
    length = len(payload)
    if length < 126:
        size = bytes([length | 0x80 * masked])
    elif length < 65536:
        size = bytes([126 | 0x80 * masked]) + struct.pack("!H", length)
    else:
        size = bytes([127 | 0x80 * masked]) + struct.pack("!Q", length)
    return bytes([first | opcode]) + size + (b"\0\0\0\0" if masked else b"") + payload


async def close_code(reader: asyncio.StreamReader) -> int | None:
    """The code of the close frame; every frame before it is passed over."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                first, size = await reader.readexactly(2)
                if size == 126:
                    [size] = struct.unpack("!H", await reader.readexactly(2))
                payload = await reader.readexactly(size)
                if first & 0x0F == 8:
                    code: int = struct.unpack("!H", payload[:2])[0]
                    return code
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


TEXT, BINARY, CONTINUED, PING, PONG = 1, 2, 0, 9, 10
BAD = {
    "too large, declared": (b"\x81\xff" + struct.pack("!Q", 17 * 2**20) + b"\0\0\0\0", 1009),
    "too large, sent": (frame(BINARY, b"x" * 70_000) + b"x" * 1_000_000, 1009),
    "too large in fragments": (
        frame(TEXT, b"x" * 40_000, first=0) + frame(CONTINUED, b"x" * 40_000, first=0),
        1009,
    ),
    "fragments without end": (
        frame(TEXT, b"", first=0) + frame(CONTINUED, b"", first=0) * 3_000,
        1008,
    ),
    "a million tiny frames": (frame(TEXT, b"x") * 200_000, 1008),
    "a flood of pings": (frame(PING, b"x" * 100) * 5_000, 1008),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character in fragments": (
        frame(TEXT, b"\xc3", first=0) + frame(CONTINUED, b"x"),
        1007,
    ),
    "not masked": (frame(TEXT, b"hello", masked=False), 1002),
    "compressed": (frame(TEXT, b"hello", first=0xC0), 1002),
    "unknown opcode": (frame(5), 1002),
    "a continuation of nothing": (frame(CONTINUED), 1002),
    "a ping in fragments": (frame(PING, first=0), 1002),
    "a close of one byte": (frame(8, b"x"), 1002),
    "a close with a bad code": (frame(8, struct.pack("!H", 999)), 1002),
    "HTTP": (b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n", 1002),
}


@pytest.mark.parametrize(("sent", "code"), BAD.values(), ids=BAD.keys())
async def test_bad_frames_are_answered_with_a_code(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    run_id = await start(database)
    extra = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    reader, writer = await shake_hands(server, f"instances/{run_id}", extra=extra)
    try:
        for begin in range(0, len(sent), 16_384):
            writer.write(sent[begin : begin + 16_384])
            await writer.drain()
    except ConnectionResetError:
        pass
    assert await close_code(reader) == code
    writer.close()
    async with listening(server, f"instances/{run_id}") as socket:  # nobody else noticed
        await told(socket)
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


async def test_what_clients_say_is_ignored(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}") as socket:
        await told(socket)
        for message in ("{}", b"\0\xff", "x" * 60_000, '{"op": "subscribe", "after": -1}'):
            await socket.send(message)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await (await socket.ping())
        await work(database)
        assert (await everything(socket))[1] == 1000


BROKEN = {
    "no key": (VERSION, b"400"),
    "a bad key": (VERSION + b"Sec-WebSocket-Key: x\r\n", b"400"),
    "no version": (KEY, b"400"),
    "another version": (KEY + b"Sec-WebSocket-Version: 12\r\n", b"400"),
    "a long header": (KEY + VERSION + b"A: " + b"x" * 9_000 + b"\r\n", b"431"),
    "many headers": (KEY + VERSION + b"".join(b"A%d: b\r\n" % n for n in range(150)), b"431"),
    "a body": (KEY + VERSION + b"Content-Length: 5\r\n", b"400"),
    "a bad subprotocol": (KEY + VERSION + b"Sec-WebSocket-Protocol: ,;\r\n", b"400"),
    "bytes in a header": (KEY + VERSION + b"A: \xff\xfe\r\n", b"101"),
}


@pytest.mark.parametrize(("extra", "status"), BROKEN.values(), ids=BROKEN.keys())
async def test_broken_handshakes_are_answered(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture, extra: bytes, status: bytes
) -> None:
    run_id = await start(database)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(handshake(f"instances/{run_id}", extra=extra))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).split(b" ")[1] == status
    finally:
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_frames_before_the_answer_do_no_harm(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await start(database)
    for early in (frame(TEXT, b"hello"), frame(5), b"\0" * 100_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(f"instances/{run_id}") + early)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).split(b" ")[1] in (b"101", b"400")
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_silent_clients_are_pinged_and_given_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.api.server.PONG_SECONDS", 0.2)
    run_id = await start(database)
    async with (
        running(database, tmp_path, ping_seconds=0.1) as server,
        listening(server, f"instances/{run_id}") as socket,
    ):
        await told(socket)
        reader, writer = await shake_hands(server, f"instances/{run_id}")
        assert await close_code(reader) == 1011  # it never answered
        writer.close()
        await work(database)  # this one did
        assert (await everything(socket))[1] == 1000


# --- the end of the server


async def test_a_server_that_stops_says_so(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await start(database)
    async with running(database, tmp_path) as server:
        reader, writer = await shake_hands(server, f"instances/{run_id}")  # never answers
        async with (
            listening(server, f"instances/{run_id}") as one,
            listening(server, "workflows/orders") as other,
        ):
            await told(one)
            await told(other)
            server.stop.set()  # `running` waits 10 s for the end
            assert await everything(one) == ([], 1012)
            assert await everything(other) == ([], 1012)
            assert await close_code(reader) == 1012
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_nothing_is_looked_at_when_nobody_listens(database: Database, server: Running) -> None:
    run_id = await start(database)
    tail: Tail = server.app.state.services.tail
    async with listening(server, f"instances/{run_id}") as socket, listening(server, "workflows/orders"):
        await told(socket)
        assert tail._handle is not None
        handle = tail._handle
    async with asyncio.timeout(PATIENCE_SECONDS):
        await handle
    assert (tail._runs, tail._workflows, len(tail._order)) == ({}, {}, 0)
    assert database._on_wake == []


async def test_a_database_that_fails_for_a_moment_ends_nothing(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(database)
    failed = asyncio.Event()
    answer, loop = streams._answer, asyncio.get_running_loop()

    def fail(*_: Any) -> Any:
        loop.call_soon_threadsafe(failed.set)
        raise OSError("gone")

    async with listening(server, f"instances/{run_id}") as socket:
        await told(socket)
        monkeypatch.setattr(streams, "_answer", fail)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await failed.wait()
        monkeypatch.setattr(streams, "_answer", answer)
        await work(database)
        found, code = await everything(socket)
    assert ([message["number"] for message in found], code) == (
        (await numbers_of(database, run_id))[1:],
        1000,
    )
