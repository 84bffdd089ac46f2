"""The command line. Each command's module is imported only when the command is used, so help is instant."""

from __future__ import annotations

import os
import sys

import rich_click as click

from engine import __version__
from engine.cli.program import LazyGroup, Program

NAME = "task-engine"

COMMANDS = {
    "run": ("engine.cli.run", "Run a graph from a file here and now, and show how it goes."),
    "server": ("engine.cli.server", "Serve the REST interfaces."),
    "worker": ("engine.cli.worker", "Work on tasks of a database."),
    "workflow": ("engine.cli.workflow", "Upload, check, list, show, switch, execute and delete workflows."),
    "instance": ("engine.cli.instance", "List, show, watch and control instances of workflows; read logs."),
    "saga": ("engine.cli.saga", "Show what undoes a run; retry, skip, sign off what failed of that."),
    "schedule": ("engine.cli.schedule", "Make, list, show, pause and trigger schedules of workflows."),
    "function": ("engine.cli.function", "List the functions that workflows may call."),
    "task": ("engine.cli.task", "Submit graphs; look at, wait for, cancel and delete tasks."),
    "runs": ("engine.cli.runs", "List, show, watch, pause, resume, cancel and retry runs; read their logs."),
    "limit": ("engine.cli.limit", "List, set and lift limits: how many tasks that name a key run at once."),
    "plugin": ("engine.cli.plugin", "Bind plug-ins (email, webhook, sms_alert, yours) to workflow events."),
    "token": ("engine.cli.token", "Make, list and revoke tokens for the server."),
    "db": ("engine.cli.db", "Upgrade and check the database schema."),
    "doctor": ("engine.cli.doctor", "Check database, schema, clock, workers and disk."),
    "version": ("engine.cli.version", "Show the version."),
}

EPILOG = (
    "Settings come from flags, ENGINE_… variables and a YAML file, in this order. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 database, 4 server, 124 time out, 130 interrupt."
)

_WITHOUT_SERVER = ("run", "server", "worker", "db")


@click.group(
    NAME,
    cls=Program,
    lazy=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--server", "-s", metavar="URL", help="Server to talk to, for commands that talk to one.")
@click.option("--json", "-j", "as_json", is_flag=True, help="Print JSON, from any command that does.")
@click.option("--debug", is_flag=True, help="Show tracebacks (ENGINE_DEBUG=1).")
@click.version_option(__version__, "--version", prog_name=NAME, message="%(prog)s %(version)s")
@click.pass_context
def program(ctx: click.Context, server: str | None, as_json: bool, debug: bool) -> None:
    """Task Engine: durable graphs of tasks in Postgres or SQLite."""
    if server is not None and ctx.invoked_subcommand in _WITHOUT_SERVER:
        raise click.UsageError(f"`{NAME} {ctx.invoked_subcommand}` talks to no server; leave out --server")
    if debug:
        os.environ["ENGINE_DEBUG"] = "1"


def main() -> None:
    """Entry point of `task-engine` and `python -m engine`."""
    prepare_streams()
    program(prog_name=NAME)


def prepare_streams() -> None:
    """Let any text be printed. Where standard output is closed, printing fails, as on a full disk."""
    for name, mode in (("stdin", "r"), ("stdout", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with a closed descriptor
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 — lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # file names and arguments need not be text


def let_output_go() -> None:
    """Whatever runs on, such as a server, is of use if nobody reads what it and its tasks print."""
    if not sys.stdout.writable():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 — lives as long as the process


__all__ = ["LazyGroup", "main", "prepare_streams", "program"]
