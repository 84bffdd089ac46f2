"""WebSockets of `/api/v1/ws`: status changes of one instance, or of all instances of a workflow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from litestar import websocket
from litestar.params import FromPath

from engine.api.edge import text_of_segment
from engine.api.options import ApiSocket, Services, services_of
from engine.api.parameters import InvalidParameters, not_accepted
from engine.api.positions import Position
from engine.api.run_translation import id_of, name_of
from engine.api.sockets import serve
from engine.api.streams import FollowedWorkflow
from engine.api.workflows.translation import current_update, update_of
from engine.api.workflows.wire import StatusUpdate
from engine.errors import InvalidInput
from engine.model.records import Run, WorkflowRun
from engine.model.skips import NO_SKIPS, Skips
from engine.model.states import FINAL_RUN_STATES, Move
from engine.operations import runs, workflows
from engine.store.database import Database
from engine.store.streams import Page, Told, newest, now

_MAX_NUMBER = 2**31 - 1
_EACH_MARKS = 64  # with more in it, only the last message of several has the cursor
_encoder = msgspec.json.Encoder()
Messages = AsyncGenerator[str, None]


@websocket("/api/v1/ws/instances/{instance_id:str}")
async def follow_instance(socket: ApiSocket, instance_id: FromPath[str]) -> None:
    """The status as it is, then every change; with `?after=` every event above that number. Ends with 1000
    when the instance has ended."""
    await serve(socket, _open_instance(services_of(socket), instance_id, _after(socket)))


async def _open_instance(services: Services, instance_id: str, after: str | None) -> Messages:
    number = None if after is None else _number(after)
    found = await workflows.get_run(services.database, id_of(instance_id, "instance"))
    if number is not None and number > found.run.events:
        accepted = f"a number from 0 to {found.run.events}, that of the newest event"
        raise InvalidParameters([not_accepted("after", str(number), accepted)])
    return _instance(services, found, number)


async def _instance(services: Services, found: WorkflowRun, after: int | None) -> Messages:
    run = found.run
    known = _Known(services.database)
    if after is None:
        after = run.events
        yield _text(current_update(run, found.error, datetime.now(UTC), await known.skips(run)))
    if _is_last(run, after):
        return
    async with services.tail.run(run) as (followed, woken):
        async for page in services.tail.pages(followed, woken, after):
            skips = await known.skips(page.run, page.events)
            for told in page.events:
                yield _text(update_of(told, page.run, skips))
            if _is_last(page.run, page.events[-1].number):
                return


def _is_last(run: Run, number: int) -> bool:
    return run.state in FINAL_RUN_STATES and number == run.events


@websocket("/api/v1/ws/workflows/{workflow_id:str}")
async def follow_workflow(socket: ApiSocket, workflow_id: FromPath[str]) -> None:
    """The status of every instance that has not ended (if there is none, of the newest), then every change
    of every instance; with `?after=` what came after the message with that cursor."""
    await serve(socket, _open_workflow(services_of(socket), workflow_id, _after(socket)))


async def _open_workflow(services: Services, workflow_id: str, after: str | None) -> Messages:
    position = None if after is None else Position.of_cursor(after)
    key = name_of(text_of_segment(workflow_id), "workflow")
    saved = await workflows.get(services.database, key)
    if position is not None and position.until > await services.database.read(now):
        raise InvalidInput("?after: the cursor is ahead of the database's clock; connect without it")
    return _workflow(services, saved.id, position)


async def _workflow(services: Services, workflow_id: str, position: Position | None) -> Messages:
    known = _Known(services.database)
    async with services.tail.workflow(workflow_id) as (followed, woken):
        if position is None:
            position = followed.position()
            for text in await _current(services, followed, position, known):
                yield text
        async for page in services.tail.workflow_pages(followed, woken, position):
            for text in _moving(page, position, await known.skips(page.run, page.events)):
                yield text
            if _is_last(page.run, page.events[-1].number):
                known.forget(page.run.id)


async def _current(
    services: Services, followed: FollowedWorkflow, position: Position, known: _Known
) -> list[str]:
    """The last message has the cursor: who did not get all of them begins anew."""
    at = datetime.now(UTC)
    rows = [item.run for item in followed.runs.values() if item.run.state not in FINAL_RUN_STATES]
    rows.sort(key=lambda run: run.id)
    if not rows:
        last = await services.database.read(newest, followed.id)
        if last is None:
            return []
        rows = [last]
    updates = [current_update(run, None, at, await known.skips(run)) for run in rows]
    updates[-1].cursor = position.cursor()
    return [_text(update) for update in updates]


def _moving(page: Page, position: Position, skips: Skips) -> Iterator[str]:
    """Messages for a page. A message is made when the one before it has been sent, so the cursor is right."""
    last = page.events[-1]
    for told in page.events:
        position.marks[told.event.run_id] = told.number
        update = update_of(told, page.run, skips)
        if told is last or len(position.marks) <= _EACH_MARKS:
            update.cursor = position.cursor()
        yield _text(update)


class _Known:
    """Skipped tasks of the runs that a reader is told of. Read again only when more were skipped: what is
    skipped at once may fill many pages."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._skips: dict[int, Skips] = {}

    async def skips(self, run: Run, events: Sequence[Told] = ()) -> Skips:
        newest = max((told.number for told in events if told.event.kind in _CHANGES_SKIPS), default=0)
        known = self._skips.get(run.id)
        if known is None and not newest and not (run.skipped and run.failed):
            return NO_SKIPS
        if known is None or known.upto < newest:
            known = self._skips[run.id] = await runs.skips(self._database, run.id)
        return known

    def forget(self, run_id: int) -> None:
        self._skips.pop(run_id, None)


_CHANGES_SKIPS = frozenset({Move.SKIP.value, "run.retried"})


def _text(update: StatusUpdate) -> str:
    return _encoder.encode(update).decode()


# --- parameters


def _after(socket: ApiSocket) -> str | None:
    given = socket.query_params.getall("after", [])
    return given[-1] if given else None


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:20]) <= _MAX_NUMBER:
        return int(text)
    raise InvalidParameters([not_accepted("after", text, f"a whole number from 0 to {_MAX_NUMBER}")])


ROUTES = [follow_instance, follow_workflow]
