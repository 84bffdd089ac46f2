"""Bindings of plug-ins to events: kept, listed, taken back. What happens at an event is in `relays`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import InvalidExpression, InvalidInput, NotFound
from engine.expressions import checks as expressions
from engine.model.plugins import Binding, names_of
from engine.operations.executions import find
from engine.plugins.registry import PluginRegistry
from engine.store import plugins as store
from engine.store.database import Database, Transaction


async def bind(
    database: Database,
    *bindings: Binding,
    plugins: PluginRegistry | None = None,
    actor: str = "local",
) -> list[Binding]:
    """Keep these, each in place of one with its id, all or none. They count for runs that start later.

    A workflow is named by its id or its name. Raises `InvalidInput` for a condition or, where `plugins` are
    known, a plug-in or its parameters that cannot be; `NotFound` for an unknown workflow.
    """
    await asyncio.to_thread(_check, bindings, plugins)
    return await database.run(_bind, bindings, actor=actor)


def check(binding: Binding, plugins: PluginRegistry | None = None) -> None:
    """What can be said without a database. Raises `InvalidInput`."""
    if binding.condition is not None:
        try:
            expressions.check(binding.condition, names=names_of(binding.event), is_condition=True)
        except InvalidExpression as error:
            raise InvalidInput(f"binding {binding.id}: condition: {error}") from None
    if plugins is not None:
        plugins.check(binding.plugin, binding.params)


def _check(bindings: Sequence[Binding], plugins: PluginRegistry | None) -> None:
    for binding in bindings:
        check(binding, plugins)


def _bind(tx: Transaction, bindings: Sequence[Binding]) -> list[Binding]:
    # In one order of ids: two that keep the same ones would wait for each other.
    return [store.put(tx, _placed(tx, binding)) for binding in sorted(bindings, key=lambda each: each.id)]


def _placed(tx: Transaction, binding: Binding) -> Binding:
    if binding.workflow_id is None:
        return binding
    return replace(binding, workflow_id=find(tx, binding.workflow_id).id)


async def unbind(database: Database, binding_id: str, *, actor: str = "local") -> None:
    """Events that were not told yet are not told any more. Raises `NotFound`."""
    if not await database.run(store.delete, binding_id, actor=actor):
        raise NotFound(f"binding not found: {binding_id}")


async def list_bindings(
    database: Database, *, workflow: str | None = None, limit: int | None = None, offset: int = 0
) -> list[Binding]:
    """By id; of a workflow, those to all workflows are among them."""

    def read(tx: Transaction) -> list[Binding]:
        workflow_id = None if workflow is None else find(tx, workflow).id
        return store.list_bindings(tx, workflow_id=workflow_id, limit=limit, offset=offset)

    return await database.read(read)
