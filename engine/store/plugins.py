"""Which plug-ins are called at which events."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.plugins import Binding, PluginEvent
from engine.store.database import Transaction
from engine.store.schema import plugin_binding
from engine.store.statement import moment_of


def put(tx: Transaction, binding: Binding) -> Binding:
    """Keep a binding in place of the one with its id, which leaves the time when that was made."""
    values = {**asdict(binding), "event": str(binding.event), "params": dict(binding.params)}
    values["created_at"] = moment_of(tx.dialect, plugin_binding.c.created_at)
    insert = tx.dialect.insert(plugin_binding).values(values)
    changed = {name: insert.excluded[name] for name in values if name not in ("id", "created_at")}
    tx.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))
    kept = get(tx, binding.id)
    assert kept is not None
    return kept


def get(tx: Transaction, binding_id: str) -> Binding | None:
    row = tx.execute(sa.select(plugin_binding).where(plugin_binding.c.id == binding_id)).one_or_none()
    return None if row is None else _binding(row)


def delete(tx: Transaction, binding_id: str) -> bool:
    """Whether there was such a binding."""
    deleted = tx.execute(sa.delete(plugin_binding).where(plugin_binding.c.id == binding_id))
    return deleted.rowcount == 1


def forget(tx: Transaction, workflow_id: str) -> None:
    """Delete the bindings to one workflow."""
    tx.execute(sa.delete(plugin_binding).where(plugin_binding.c.workflow_id == workflow_id))


def list_bindings(
    tx: Transaction, *, workflow_id: str | None = None, limit: int | None = None, offset: int = 0
) -> list[Binding]:
    """By id; with `workflow_id` those to this workflow and to all."""
    query = sa.select(plugin_binding).order_by(plugin_binding.c.id).limit(limit).offset(offset)
    if workflow_id is not None:
        query = query.where(_concerns(workflow_id))
    return [_binding(row) for row in tx.execute(query)]


def concern(tx: Transaction, workflow_id: str) -> bool:
    """Whether somebody may have to be told of a run of this workflow that starts now."""
    query = sa.select(plugin_binding.c.id).where(plugin_binding.c.is_enabled, _concerns(workflow_id)).limit(1)
    return tx.execute(query).first() is not None


def concerning(tx: Transaction, workflow_id: str, started: datetime) -> list[Binding]:
    """Bindings that count for a run of this workflow that was submitted then: those made before, by id."""
    query = (
        sa.select(plugin_binding)
        .where(plugin_binding.c.is_enabled, plugin_binding.c.created_at <= started, _concerns(workflow_id))
        .order_by(plugin_binding.c.id)
    )
    return [_binding(row) for row in tx.execute(query)]


def _concerns(workflow_id: str) -> sa.ColumnElement[bool]:
    return sa.or_(plugin_binding.c.workflow_id.is_(None), plugin_binding.c.workflow_id == workflow_id)


def _binding(row: Any) -> Binding:
    return Binding(
        row.id,
        row.plugin,
        PluginEvent(row.event),
        row.condition,
        row.params,
        row.workflow_id,
        row.is_enabled,
        row.created_at,
    )
