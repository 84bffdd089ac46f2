"""`task-engine plugin`: at which events of workflows which plug-ins are called."""

from __future__ import annotations

from typing import Any

import rich_click as click

from engine.cli.options import NAME
from engine.cli.output import moment, note, one_line, print_json, say, show_table
from engine.cli.params import params_of, params_options
from engine.cli.target import Target, on_each, with_target
from engine.model.json import JSON
from engine.model.plugins import Binding, PluginEvent


@click.group("plugin")
def plugin() -> None:
    """Bind plug-ins (email, webhook, sms_alert and your own) to events of workflows."""


@plugin.command("list")
@with_target
def list_(target: Target, as_json: bool) -> None:
    """List the bindings."""
    found = target.plugin_bindings()
    if as_json:
        print_json([_document(binding) for binding in found])
        return
    if not found:
        note("no plug-in is bound; `task-engine plugin bind webhook task.failed --params url=…` binds one")
        return
    show_table(
        ("ID", "PLUGIN", "EVENT", "WORKFLOW", "CONDITION", "STATE", "CREATED"),
        (
            (
                binding.id,
                binding.plugin,
                binding.event,
                binding.workflow_id or "all",
                one_line(binding.condition, 40),
                "enabled" if binding.is_enabled else "disabled",
                moment(binding.created_at),
            )
            for binding in found
        ),
    )


@plugin.command("bind")
@click.argument("name", metavar="PLUGIN", type=NAME)
@click.argument("event", metavar="EVENT", type=click.Choice([str(event) for event in PluginEvent]))
@click.option("--workflow", metavar="WORKFLOW", help="Only for this workflow, by id or name.")
@click.option("--condition", metavar="CEL", help="Only when this holds, such as 'task.name == \"load\"'.")
@click.option("--id", "binding_id", type=NAME, metavar="ID", help="Its id (default: PLUGIN:EVENT).")
@click.option("--disabled", is_flag=True, help="Keep it, but call nobody.")
@params_options
@with_target
def bind(
    target: Target,
    name: str,
    event: str,
    workflow: str | None,
    condition: str | None,
    binding_id: str | None,
    disabled: bool,
    given: tuple[tuple[str, JSON], ...],
    params_file: str | None,
    as_json: bool,
) -> None:
    """Call a plug-in at each such event of runs that start from now on. Replaces a binding of the same id."""
    wanted = Binding.of(
        {
            "plugin": name,
            "event": event,
            "condition": condition,
            "params": params_of(given, params_file),
            "workflow_id": workflow,
            "is_enabled": not disabled,
            "id": binding_id,
        }
    )
    kept = target.bind_plugin(wanted)
    if as_json:
        print_json(_document(kept))
    else:
        say(f"{kept.id}: {kept.plugin} is called at {kept.event} of {kept.workflow_id or 'every workflow'}")


@plugin.command("unbind")
@click.argument("binding_ids", metavar="ID...", nargs=-1, required=True)
@with_target
def unbind(target: Target, binding_ids: tuple[str, ...], as_json: bool) -> None:
    """Take bindings back. Events that were not told yet are not told any more."""
    with on_each(binding_ids, target.unbind_plugin) as done:
        if as_json:
            print_json({"unbound": list(done)})
        elif done:
            say(f"unbound {', '.join(done)}")


def _document(binding: Binding) -> dict[str, Any]:
    return {
        "id": binding.id,
        "plugin": binding.plugin,
        "event": str(binding.event),
        "workflow_id": binding.workflow_id,
        "condition": binding.condition,
        "params": dict(binding.params),
        "is_enabled": binding.is_enabled,
        "created_at": binding.created_at,
    }
