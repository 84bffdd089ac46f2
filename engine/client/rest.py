"""The typed client: what the REST interfaces say, as the engine's own records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

from engine.client.answers import field_of, rows, typed
from engine.client.continuations import Continuations
from engine.client.plugins import Plugins
from engine.client.schedules import Schedules
from engine.client.transport import Transport
from engine.client.waiting import deadline_in, wait_until
from engine.client.workflows import Workflows
from engine.errors import InvalidInput, NotFound
from engine.model.json import JSON
from engine.model.records import Event, LimitUse, LogLine, Run, Task, Token, WorkerSession
from engine.model.states import FINAL_RUN_STATES

T = TypeVar("T")
RUNS = "/api/v1/runs"
_PROBE_SECONDS = 0.3
_PAGE = 500  # the most that the server's lists give at once
_MAX_WAIT_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit was answered with. The ExecGo contract does not name the run."""

    task_names: list[str]
    run_id: int | None = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class ContractTask:
    """A task as the ExecGo contract shows it; `document` is the whole of it."""

    id: str
    type: str
    status: str
    created_at: datetime
    updated_at: datetime
    document: dict[str, Any] = field(repr=False)
    tool_name: str | None = None
    error: str | None = None
    runtime: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: dict[str, Any]) -> ContractTask:
        return typed({**document, "document": document}, cls)


FINAL_STATUSES = frozenset({"success", "failed", "skipped"})


def is_execgo(graph: JSON) -> bool:
    """Whether a graph has ExecGo's shape (`id`, `type`), not ours (`name`, `kind`): its first task tells."""
    tasks = graph.get("tasks") if isinstance(graph, dict) else None
    first = tasks[0] if isinstance(tasks, list) and tasks else None
    return isinstance(first, dict) and bool({"id", "type"} & first.keys()) and "kind" not in first


class Client(Workflows, Schedules, Plugins, Continuations):
    """A server. Raises the engine's errors: `NotFound`, `Conflict`, `InvalidInput`, `ServerUnavailable` …"""

    def __init__(self, url: str, token: str | None = None, *, timeout_seconds: float = 60.0) -> None:
        self._transport = Transport(url, token, timeout_seconds=timeout_seconds)

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the server

    def health(self) -> dict[str, Any]:
        return typed(self._transport.get("/health"), dict[str, Any])

    def ready(self) -> dict[str, Any]:
        return typed(self._transport.get("/ready"), dict[str, Any])

    def workers(self, *, only_live: bool = False) -> list[WorkerSession]:
        return self._all("/api/v1/workers", "workers", WorkerSession, live="true" if only_live else None)

    # --- runs

    def submit_graph(self, graph: JSON, *, key: str | None = None) -> Submitted:
        """Submit a graph, in either shape. With `key` it is safe to repeat within a day."""
        if is_execgo(graph):
            return Submitted(
                list(field_of(self._transport.send("POST", "/tasks", graph, key), "task_ids", list[str]))
            )
        answer = self._transport.send("POST", RUNS, graph, key)
        return Submitted(
            list(field_of(answer, "task_ids", dict[str, int])),
            field_of(answer, "run_id", int),
            field_of(answer, "is_repeat", bool),
        )

    def runs(
        self, *, state: str | None = None, name: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[Run]:
        """Newest first. Reads as many pages as `limit` needs."""
        found: list[Run] = []
        while len(found) < limit:
            page = min(limit - len(found), _PAGE)
            answer = self._transport.get(RUNS, state=state, name=name, before=before, limit=page)
            listed = [_run(document) for document in field_of(answer, "runs", list[dict[str, Any]])]
            found += listed
            if len(listed) < page:
                break
            before = listed[-1].id
        return found

    def run(self, run_id: int) -> Run:
        return _run(field_of(self._transport.get(f"{RUNS}/{run_id}", include=""), "run", dict[str, Any]))

    def tasks(
        self, run_id: int, *, state: str | None = None, after: int | None = None, limit: int = 1000
    ) -> list[Task]:
        answer = self._transport.get(f"{RUNS}/{run_id}/tasks", state=state, after=after, limit=limit)
        return rows(answer, "tasks", Task, run_id=run_id)

    def events(
        self, run_id: int, *, after: int = 0, wait_seconds: float = 0.0, limit: int = 1000
    ) -> list[Event]:
        """Events numbered above `after`; if there are none, waits that long for one."""
        wait = min(wait_seconds, _MAX_WAIT_SECONDS)
        answer = self._transport.request(
            "GET",
            f"{RUNS}/{run_id}/events",
            parameters={"after": after, "limit": limit, "wait": wait},
            timeout_seconds=wait + 30.0,
        )
        return rows(answer, "events", Event, run_id=run_id)

    def logs(
        self, run_id: int, *, task_name: str | None = None, limit: int = 1000, offset: int = 0
    ) -> list[LogLine]:
        answer = self._transport.get(f"{RUNS}/{run_id}/logs", task=task_name, limit=limit, offset=offset)
        return rows(answer, "lines", LogLine)

    def wait(self, run_id: int, timeout: float | None = None) -> Run:
        """The run once it has ended; looks twice a second or more often.

        Raises `NotFound`, `ServerUnavailable` …, and after `timeout` seconds `TimeoutError`.
        """
        run = self.run(run_id)

        def is_over() -> bool:
            nonlocal run
            run = self.run(run_id)
            return run.state in FINAL_RUN_STATES

        try:
            wait_until(is_over, deadline_in(timeout))
        except TimeoutError:
            raise TimeoutError(
                f"run {run_id} has not ended after {timeout:g} seconds; its state is {run.state}"
            ) from None
        return run

    def pause(self, run_id: int) -> Run:
        return self._control(run_id, "pause")

    def resume(self, run_id: int) -> Run:
        return self._control(run_id, "resume")

    def cancel(self, run_id: int, *, reason: str | None = None) -> Run:
        """`reason` is what its tasks say afterwards."""
        return self._control(run_id, "cancel", None if reason is None else {"reason": reason})

    def retry(self, run_id: int) -> Run:
        return self._control(run_id, "retry")

    def delete(self, run_id: int) -> None:
        self._transport.request("DELETE", f"{RUNS}/{run_id}")

    def _control(self, run_id: int, verb: str, document: JSON = None) -> Run:
        return _run(self._transport.send("POST", f"{RUNS}/{run_id}/{verb}", document))

    # --- tasks of the ExecGo contract

    def contract_task(self, task_id: str) -> ContractTask:
        return ContractTask.of(self._transport.get(f"/tasks/{quote(task_id, safe='')}"))

    def contract_tasks(
        self,
        *,
        status: str | None = None,
        type_: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[ContractTask]:
        answer = self._transport.get("/tasks", status=status, type=type_, limit=limit, offset=offset or None)
        return [ContractTask.of(document) for document in typed(answer, list[dict[str, Any]])]

    def cancel_contract_task(self, task_id: str) -> ContractTask:
        task = self.contract_task(task_id)
        try:
            answer = self._transport.request("POST", f"/tasks/{quote(task.id, safe='')}/cancel")
        except NotFound:
            raise InvalidInput(
                "this server cannot cancel single tasks; cancel the run, or use --db"
            ) from None
        return ContractTask.of(answer)

    def delete_contract_task(self, task_id: str) -> None:
        self._transport.request("DELETE", f"/tasks/{quote(task_id, safe='')}")

    # --- limits

    def limits(self) -> list[LimitUse]:
        return self._all("/api/v1/limits", "limits", LimitUse)

    def set_limit(self, key: str, at_most: int) -> LimitUse:
        answer = self._transport.send("PUT", f"/api/v1/limits/{quote(key, safe='')}", {"at_most": at_most})
        return typed(answer, LimitUse)

    def lift_limit(self, key: str) -> None:
        self._transport.request("DELETE", f"/api/v1/limits/{quote(key, safe='')}")

    # --- tokens

    def tokens(self) -> list[Token]:
        return self._all("/api/v1/tokens", "tokens", Token)

    def create_token(self, name: str, scopes: Sequence[str], expires_at: datetime | None = None) -> str:
        """Returns the secret, which is shown this once."""
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return field_of(self._transport.send("POST", "/api/v1/tokens", body), "token", str)

    def revoke_token(self, token_id: str) -> None:
        self._transport.request("DELETE", f"/api/v1/tokens/{quote(token_id, safe='')}")

    def _all(self, path: str, name: str, kind: type[T], **filters: Any) -> list[T]:
        """Reads every page of a list."""
        found: list[T] = []
        while True:
            answer = self._transport.get(path, limit=_PAGE, offset=len(found) or None, **filters)
            page = rows(answer, name, kind)
            found += page
            if len(page) < _PAGE:
                return found


def answers(url: str) -> bool:
    """Whether a Task Engine answers at `url` at once."""
    try:
        with Client(url, timeout_seconds=_PROBE_SECONDS) as client:
            return {"status", "version", "uptime"} <= client.health().keys()
    except Exception:  # whatever is there, it is not a server of ours
        return False


def _run(document: JSON) -> Run:
    """A run as the server shows it has its counts in an object of their own."""
    flat = typed(document, dict[str, Any])
    return typed({**flat, **typed(flat.get("progress"), dict[str, Any])}, Run)
