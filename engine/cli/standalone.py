"""`task-engine-server`: the server as a program of its own, with the flags that the contract gives it."""

from __future__ import annotations

import rich_click as click

from engine import __version__
from engine.cli import prepare_streams
from engine.cli.options import config_option
from engine.cli.program import guarded
from engine.cli.server import serve_and_work
from engine.cli.wiring import CONFIG_PLACES

NAME = "task-engine-server"
PLACES = ("configs/server.yaml", *CONFIG_PLACES)


@click.command(NAME, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@config_option
@click.option("--host", metavar="HOST", help="Where to listen; 0.0.0.0 (every interface) needs a token.")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="PORT", help="The port; 0: a free one.")
@click.version_option(__version__, "--version", prog_name=NAME, message="%(prog)s %(version)s")
def standalone(config: str | None, host: str | None, port: int | None) -> None:
    """Serve the REST interfaces and work on tasks, until SIGTERM or Ctrl-C.

    Without --config, settings are read from configs/server.yaml, configs/engine.yaml, config/engine.yaml or
    engine.yaml, if there is one. Everything else is set there or by ENGINE_… variables.
    """
    serve_and_work(host, port, {"config": config}, PLACES)


def main() -> None:
    """Entry point of `task-engine-server`."""
    prepare_streams()
    raise SystemExit(guarded(lambda: standalone.main(prog_name=NAME, standalone_mode=False)))
