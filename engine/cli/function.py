"""`task-engine function`: what workflows may call, and who has code for it."""

from __future__ import annotations

import rich_click as click

from engine.api.workflows.wire import FunctionOut, Functions
from engine.cli.instances import note_more
from engine.cli.options import paging_options
from engine.cli.output import one_line, print_json, say, show_table
from engine.cli.target import Target, with_target
from engine.client.answers import typed


@click.group("function")
def function() -> None:
    """List the functions that workflows may call."""


@function.command("list")
@click.option("--missing", is_flag=True, help="Only those that no live worker has code for.")
@paging_options(20)
@with_target
def list_(target: Target, missing: bool, limit: int, offset: int, as_json: bool) -> None:
    """List registered functions by name, with the number of live workers that have code for them."""
    document = target.functions(is_missing=True if missing else None, limit=limit, offset=offset)
    if as_json:
        print_json(document)
        return
    found = typed(document, Functions)
    if not found.items:
        say("no functions are missing" if missing else "no functions; workers with --functions register them")
        return
    show_table(
        ("NAME", "WORKERS", "PARAMETERS", "DESCRIPTION"),
        (
            (
                one_line(each.name, 60),
                each.worker_count or "none",
                one_line(_parameters(each), 60),
                one_line(each.description, 60),
            )
            for each in found.items
        ),
        right=("WORKERS",),
    )
    if found.has_more:
        note_more(offset + len(found.items))


def _parameters(found: FunctionOut) -> str:
    """`day, limit?`: with a mark what may be left out."""
    schema = found.params or {}
    required = schema.get("required", ())
    return ", ".join(name if name in required else f"{name}?" for name in schema.get("properties", {}))
