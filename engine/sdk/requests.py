"""Submits made ready: all that can be wrong has been checked, all that is left is to run in a transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec

from engine.errors import InvalidInput
from engine.model.graph import MAX_NAME, Graph, Plan, TaskSpec
from engine.model.json import JSON, Unstorable, check_storable
from engine.model.run_defaults import RunDefaults
from engine.operations import executions
from engine.operations.submits import Accepted, Key, Submission, submit_all_within, submit_within
from engine.sdk.checks import Kinds, checked
from engine.store.database import Transaction

KEY_SCOPE = "sdk"


@dataclass(frozen=True, slots=True)
class SubmitOne:
    plan: Plan
    key: Key | None

    @classmethod
    def of(
        cls,
        graph: Graph,
        *,
        key: str | None = None,
        name: str | None = None,
        kinds: Kinds | None = None,
    ) -> SubmitOne:
        """Raises `InvalidInput` (`GraphError`, `UnknownKind`, …). `name` overrides the graph's own."""
        plan = checked(graph, kinds)
        if name is not None:
            plan = checked(replace(graph, name=name))
        return cls(plan, None if key is None else _key(key, plan.graph))

    @property
    def may_lose_race(self) -> bool:
        return self.key is not None

    def __call__(self, tx: Transaction) -> Accepted:
        return submit_within(tx, Submission(self.plan, tx.actor, key=self.key))


@dataclass(frozen=True, slots=True)
class SubmitMany:
    plans: list[Plan]
    may_lose_race = False

    @classmethod
    def of(cls, graphs: Iterable[Graph], *, kinds: Kinds | None = None) -> SubmitMany:
        return cls([checked(graph, kinds) for graph in graphs])

    def __call__(self, tx: Transaction) -> list[Accepted]:
        return submit_all_within(tx, [Submission(plan, tx.actor) for plan in self.plans])


@dataclass(frozen=True, slots=True)
class ExecuteOne:
    """A run of a saved workflow, by its id or name."""

    workflow: str
    params: Mapping[str, JSON]
    version: int | None
    key: str | None
    defaults: RunDefaults

    @property
    def may_lose_race(self) -> bool:
        return self.key is not None

    def __call__(self, tx: Transaction) -> Accepted:
        found = executions.to_start(tx, self.workflow, self.version)
        once = None if self.key is None else execution_key(self.key, found.saved.id, self.params)
        start = executions.prepare(
            found, self.params, actor=tx.actor, defaults=self.defaults, idempotency=once
        )
        return executions.start_within(tx, start)


def checked_params(params: Mapping[str, JSON] | None) -> dict[str, JSON]:
    """Raises `InvalidInput` if they cannot be stored."""
    if not isinstance(params, Mapping | None):
        raise InvalidInput(f"params are an object with their names as keys, got {type(params).__name__}")
    given = dict(params or {})
    try:
        check_storable(given)
    except Unstorable as error:
        raise InvalidInput(f"params cannot be stored: {error}") from None
    return given


def execution_key(key: str, workflow_id: str, params: Mapping[str, JSON]) -> Key:
    """Of a run of a workflow that is to be started once. Raises `InvalidInput`."""
    document = msgspec.json.encode(params, order="deterministic")
    return _keyed(f"{KEY_SCOPE} {workflow_id}", key, hashlib.sha256(document).hexdigest())


def _key(key: str, graph: Graph) -> Key:
    return _keyed(KEY_SCOPE, key, _fingerprint(graph))


def _keyed(scope: str, key: str, fingerprint: str) -> Key:
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_NAME or not key.isprintable():
        raise InvalidInput(f"an idempotency key is a text of 1 to {MAX_NAME} printable characters")
    return Key(scope, key, fingerprint)


def _fingerprint(graph: Graph) -> str:
    """The same for equal graphs, in every release: fields at their defaults do not count."""
    document = [graph.name, graph.labels, [_differences(task) for task in graph.tasks]]
    return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()


def _differences(task: TaskSpec) -> dict[str, Any]:
    found = {field.name: getattr(task, field.name) for field in fields(task)}
    found["retry"] = task.retry.to_json()
    found["depends_on"] = [[item.name, item.condition] for item in task.depends_on]
    return {name: value for name, value in found.items() if value != _DEFAULTS.get(name)}


_DEFAULTS: dict[str, Any] = {
    **{field.name: field.default for field in fields(TaskSpec)},
    "retry": {},
    "depends_on": [],
}
