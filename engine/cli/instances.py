"""What commands of workflows and of instances share: answers told, ends waited for."""

from __future__ import annotations

from typing import Any, NoReturn

from click.exceptions import Exit

from engine.api.workflows.wire import InstanceDetail, Message
from engine.cli import status
from engine.cli.output import note, print_json, say_done
from engine.cli.output import show as show_block
from engine.cli.program import FAILED
from engine.cli.status import Look
from engine.cli.target import Target
from engine.cli.waiting import give_up, wait_for
from engine.client.answers import typed


def say_message(document: dict[str, Any], *, as_json: bool) -> None:
    """`✅ Instance paused: 7`."""
    if as_json:
        print_json(document)
        return
    answer = typed(document, Message)
    say_done(f"{answer.message[:1].upper()}{answer.message[1:]}: {answer.id}")


def note_more(offset: int) -> None:
    note(f"there are more: --offset {offset} reads on, --limit N shows more")


def show_status(look: Look, *, as_json: bool) -> None:
    if as_json:
        print_json(look.document)
    else:
        show_block(status.block(look))


def watch_to_end(target: Target, instance_id: str, *, as_json: bool) -> NoReturn:
    """Ends the command: with exit code 0 if the instance succeeded, otherwise 1."""
    _end(status.watch(target, instance_id, as_json=as_json))


def show_end(target: Target, instance_id: str, timeout: float | None, *, as_json: bool) -> NoReturn:
    """Wait, then show the instance. Ends the command as `watch_to_end`; with 124 if time ran out."""
    in_time = wait_for(lambda: _is_over(target, instance_id), timeout)
    look = status.look_at(target, instance_id)
    show_status(look, as_json=as_json)
    if not in_time:
        give_up(timeout, f"instance {instance_id}")
    _end(look)


def _is_over(target: Target, instance_id: str) -> bool:
    return typed(target.instance(instance_id), InstanceDetail).status in status.FINAL


def _end(look: Look) -> NoReturn:
    raise Exit(0 if look.has_succeeded else FAILED)
