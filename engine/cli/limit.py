"""`task-engine limit`: how many tasks that name a key may run at once."""

from __future__ import annotations

import msgspec
import rich_click as click

from engine.cli.options import NAME
from engine.cli.output import one_line, print_json, say, show_table
from engine.cli.target import Target, with_target
from engine.model.graph import EVERY_TASK, MAX_AT_MOST


@click.group("limit")
def limit() -> None:
    """List, set and lift limits: how many tasks that name a key run at once."""


@limit.command("list")
@with_target
def list_(target: Target, as_json: bool) -> None:
    """List limits, each with the number of tasks that run now."""
    found = target.limits()
    if as_json:
        print_json([msgspec.to_builtins(each) for each in found])
        return
    if not found:
        say("no limits")
        return
    show_table(
        ("KEY", "AT MOST", "RUNNING"),
        ((one_line(each.key, 60), _most(each.at_most), each.running) for each in found),
    )


def _most(number: int) -> int | str:
    return "any" if number >= MAX_AT_MOST else number


@limit.command("set")
@click.argument("key", type=NAME)
@click.argument("at_most", type=click.IntRange(1, MAX_AT_MOST), metavar="NUMBER")
@with_target
def set_(target: Target, key: str, at_most: int, as_json: bool) -> None:
    """Let at most NUMBER tasks that name KEY run at once, from the next claim on.

    The key `*` holds for every task that is submitted from now on.
    """
    use = target.set_limit(key, at_most)
    if as_json:
        print_json(msgspec.to_builtins(use))
        return
    whom = "tasks submitted from now on" if key == EVERY_TASK else f"tasks that name {key}"
    say(f"at most {at_most} {whom} run at once ({use.running} run now)")


@limit.command("lift")
@click.argument("key", type=NAME)
@with_target
def lift(target: Target, key: str, as_json: bool) -> None:
    """Let as many run as there are workers for."""
    target.lift_limit(key)
    if as_json:
        print_json({"lifted": key})
    else:
        say(f"lifted {key}")
