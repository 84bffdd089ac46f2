"""Waiting for what a target does, at most as long as `--timeout` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import rich_click as click
from click.exceptions import Exit

from engine.cli.options import Span
from engine.cli.output import duration, note
from engine.cli.program import TIMED_OUT
from engine.cli.target import patiently
from engine.client.waiting import deadline_in, wait_until

timeout_option = click.option(
    "--timeout", type=Span(least=0), metavar="TIME", help="Wait no longer than this."
)


def wait_for(is_over: Callable[[], bool], timeout: float | None) -> bool:
    """Whether it was over in time. A target that is away for a while is waited for, too."""
    deadline = deadline_in(timeout)
    try:
        wait_until(lambda: patiently(is_over, deadline), deadline)
    except TimeoutError:
        return False
    return True


def give_up(timeout: float | None, unfinished: str) -> NoReturn:
    note(f"error: timed out after {duration((timeout or 0) * 1000)}, not ended: {unfinished}")
    raise Exit(TIMED_OUT)
