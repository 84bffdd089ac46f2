"""How commands are found, and how every error ends: a line `error: …` for each problem, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from io import UnsupportedOperation
from typing import Any

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from engine.cli.output import clean
from engine.errors import (
    ConfigError,
    EngineError,
    InvalidInput,
    SchemaMismatch,
    ServerUnavailable,
    StoreUnavailable,
)

FAILED, USAGE, DATABASE, SERVER, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 124, 130
_SIGPIPE = 141  # as of a program that the closed pipe killed


class _OutputClosed(Exception):
    """Nobody reads our output any more."""


class LazyGroup(click.RichGroup):
    """A group whose commands are named, with a line of help each, and imported when invoked.

    `lazy` maps a command's name to its module (which has a command of the same name) and its help.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        # Stand-ins that help, completion and suggestions can show; `resolve_command` gives the real ones.
        for name, (_, help_) in self._lazy.items():
            self.add_command(click.RichCommand(name=name, help=help_))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in self._lazy:
            command = getattr(import_module(self._lazy[name][0]), name)
        return name, command, rest


class Program(LazyGroup):
    """The outermost group: errors of the engine and of the user become messages here, and nowhere else."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would make exit code 1 of it
            raise _OutputClosed from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        def invoke() -> Any:
            return super(Program, self).main(
                args, prog_name, complete_var, standalone_mode=False, windows_expand_args=False, **extra
            )

        if not standalone_mode:
            return invoke()
        raise SystemExit(guarded(invoke))


def guarded(work: Callable[[], Any]) -> int:
    """Run `work`; returns the exit code after its errors have been printed."""
    try:
        code = work()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (_OutputClosed, BrokenPipeError):
        # Nobody reads on. The interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _SIGPIPE
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        return _explain_usage(error)
    except EngineError as error:
        if is_debug():
            traceback.print_exc()
        for problem in str(error).splitlines():
            _say(f"error: {problem}")
        return exit_code(error)
    except UnsupportedOperation:  # see `prepare_streams`
        _say("error: standard output is closed")
        return FAILED
    except OSError as error:  # a full disk, too many open files: not ours to mend
        if is_debug():
            raise
        _say(f"error: {explained(error)}")
        return FAILED
    except Exception as error:
        if is_debug():
            raise
        _say(f"error: {type(error).__name__}: {error}")
        _say("This should not happen. Run again with --debug for the details.")
        return FAILED


def exit_code(error: EngineError) -> int:
    match error:
        case StoreUnavailable() | SchemaMismatch():
            return DATABASE
        case ServerUnavailable():
            return SERVER
        case InvalidInput() | ConfigError():
            return USAGE
        case _:
            return FAILED


def explained(error: OSError) -> str:
    """`Read-only file system: data/task-engine.db`, without the number."""
    return ": ".join(str(part) for part in (error.strerror or error, error.filename) if part is not None)


def is_debug() -> bool:
    return os.environ.get("ENGINE_DEBUG", "").lower() in ("1", "true", "yes", "on", "t", "y")


def _explain_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.message, err=True)
        return USAGE
    _say(f"error: {error.format_message()}")
    if context is not None:
        _say(f"Try: {context.command_path} --help")
    return error.exit_code


def _say(text: str) -> None:
    try:
        click.echo(clean(text), err=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
