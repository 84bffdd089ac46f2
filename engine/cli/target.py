"""What the commands act on: a server or a database, with the same verbs, so that output is the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from typing import Any, Protocol, TypeVar

import rich_click as click

from engine.cli.continuation_verbs import Continuations
from engine.cli.options import (
    config_option,
    data_dir_option,
    db_option,
    json_option,
    server_option,
    stacked,
)
from engine.cli.output import note
from engine.cli.plugin_verbs import Plugins
from engine.cli.workflow_verbs import Schedules, Workflows
from engine.client import rest
from engine.client.documents import Document
from engine.client.rest import ContractTask, Submitted
from engine.client.waiting import sleep
from engine.errors import Conflict, NotFound, Overloaded, ServerUnavailable, StoreUnavailable
from engine.model.records import Event, LimitUse, LogLine, Run, Task, Token, WorkerSession
from engine.settings import Settings, load

N = TypeVar("N", int, str)
T = TypeVar("T")
_AWAY = (ServerUnavailable, StoreUnavailable, Overloaded)
_PAGE = 1000
_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 6)  # seconds between attempts to reach a target again: 36


class Target(Workflows, Schedules, Plugins, Continuations, Protocol):
    """Raises `NotFound`, `Conflict`, `InvalidInput` … alike on both sides."""

    where: str  # for people: a server's URL, or a database without its password

    def close(self) -> None: ...

    def submit(self, document: Document, key: str) -> Submitted: ...
    def runs(self, *, state: str | None, name: str | None, before: int | None, limit: int) -> list[Run]: ...
    def run(self, run_id: int) -> Run: ...
    def tasks(
        self, run_id: int, *, state: str | None = None, after: int | None = None, limit: int = 1000
    ) -> list[Task]: ...
    def events(self, run_id: int, *, after: int, wait_seconds: float = 0.0) -> list[Event]: ...
    def logs(self, run_id: int, *, task_name: str | None, limit: int, offset: int) -> list[LogLine]: ...
    def pause(self, run_id: int) -> Run: ...
    def resume(self, run_id: int) -> Run: ...
    def cancel(self, run_id: int, *, reason: str | None) -> Run: ...
    def retry(self, run_id: int) -> Run: ...
    def delete(self, run_id: int) -> None: ...

    def contract_task(self, task_id: str) -> ContractTask: ...
    def contract_tasks(
        self, *, status: str | None, type_: str | None, limit: int | None, offset: int
    ) -> list[ContractTask]: ...
    def cancel_contract_task(self, task_id: str) -> ContractTask: ...
    def delete_contract_task(self, task_id: str) -> None: ...

    def workers(self, *, only_live: bool) -> list[WorkerSession]: ...
    def limits(self) -> list[LimitUse]: ...
    def set_limit(self, key: str, at_most: int) -> LimitUse: ...
    def lift_limit(self, key: str) -> None: ...
    def tokens(self) -> list[Token]: ...
    def create_token(self, name: str, scopes: Sequence[str], expires_at: datetime | None) -> str: ...
    def revoke_token(self, token_id: str) -> None: ...


_token = click.option(
    "--token", metavar="TOKEN", help="Token for the server. ENGINE_TOKEN is better: others can see flags."
)
_options = stacked(server_option, db_option, data_dir_option, _token, config_option, json_option)


def with_target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --server, --db, --json …; calls `command(target, as_json=…, **its own options)`."""

    @functools.wraps(command)
    def call(
        *args: Any,
        server: str | None,
        database_url: str | None,
        data_dir: str | None,
        token: str | None,
        config: str | None,
        **others: Any,
    ) -> Any:
        target = open_target(
            {
                "server": server,
                "database_url": database_url,
                "data_dir": data_dir,
                "token": token,
                "config": config,
            }
        )
        try:
            return command(target, *args, **others)
        finally:
            target.close()

    return _options(call)


@contextmanager
def on_each(names: Sequence[N], act: Callable[[N], T]) -> Iterator[dict[N, T]]:
    """Act on every one of `names`, whichever is refused, and give the results of the others by name.

    Raises `Conflict` with all refusals at the end, after the results have been shown.
    """
    done: dict[N, T] = {}
    refused: list[str] = []
    for name in dict.fromkeys(names):
        try:
            done[name] = act(name)
        except (Conflict, NotFound) as error:
            refused.append(str(error))
    yield done
    if refused:
        raise Conflict("; ".join(refused))


def patiently(ask: Callable[[], T], deadline: float = math.inf) -> T:
    """`ask`, which only reads, again and again while its target is away, as during a restart.

    Raises `TimeoutError` if the target is away when `deadline` passes.
    """
    for pause in _PAUSES:
        try:
            return ask()
        except _AWAY as error:
            if pause == _PAUSES[0]:
                note(f"note: {error}; trying again for {sum(_PAUSES):.0f} s")
            sleep(pause, deadline)
    return ask()


def tasks_of(target: Target, run_id: int, *, state: str | None = None, limit: int) -> list[Task]:
    """The first `limit` tasks of a run, in its order."""
    found: list[Task] = []
    while len(found) < limit:
        size = min(limit - len(found), _PAGE)
        page = target.tasks(run_id, state=state, after=found[-1].id if found else None, limit=size)
        found += page
        if len(page) < size:
            break
    return found


@contextmanager
def repeatable(key: str, what: str) -> Iterator[None]:
    """Where the answer to a request is lost, say how to repeat it: `what` may or may not have happened."""
    advice = f"whether {what} is not known: repeat with --idempotency-key {key}"
    try:
        yield
    except KeyboardInterrupt:
        note(advice)
        raise
    except ServerUnavailable as error:
        if not error.is_unknown:
            raise
        raise ServerUnavailable(f"{error}; {advice}", is_unknown=True) from None


def open_target(flags: dict[str, str | None]) -> Target:
    """By flag; else the configured server; else a server that answers at our address; else the database."""
    by_database = flags["database_url"] is not None or flags["data_dir"] is not None
    if flags["server"] is not None and by_database:
        raise click.UsageError("give --server or a database (--db, --data-dir), not both")
    settings = load(flags)
    url = None if by_database else server_of(settings)
    if url is not None and settings.server is None and settings.database_url is not None:
        note(f"note: {url} answers and is used, not the configured database; --server or --db says which")
    kind = "engine.cli.local" if url is None else "engine.cli.remote"
    target: Target = import_module(kind).open_target(settings, url)  # the other side's imports are not needed
    return target


def mention_idleness(target: Target) -> None:
    """Waiting where nobody works is what a newcomer does first."""
    if not target.workers(only_live=True):
        note("note: no worker is alive; `task-engine worker start` starts one, `server start` too")


def server_of(settings: Settings) -> str | None:
    """The server to use: the configured one, or one that answers at the address of the settings."""
    if settings.server is not None:
        return settings.server
    here = settings.address.url
    return here if rest.answers(here) else None
