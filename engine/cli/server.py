"""`task-engine server start`: the REST interfaces, with a worker in the same process by default."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psutil
import rich_click as click

from engine import __version__
from engine.api.app import create_app
from engine.api.options import LOOPBACK_HOSTS, ApiOptions
from engine.api.server import new_event_loop, serve
from engine.cli import let_output_go
from engine.cli.options import DURATION, config_option, data_dir_option, db_option, functions_option, stacked
from engine.cli.output import note
from engine.cli.stopping import Stopping
from engine.cli.wiring import (
    CONFIG_PLACES,
    check_schema,
    found_config,
    hide_secrets_of,
    is_sqlite,
    open_database,
    upgrade_schema,
)
from engine.errors import ConfigError
from engine.executors.base import ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from engine.operations import functions, tokens
from engine.sdk.configured import executor_settings, worker_options
from engine.sdk.opening import shown
from engine.settings import Address, Settings, load
from engine.store.database import Database
from engine.telemetry import configure_logging, emit
from engine.worker.pool import PoolSpec, run_pool
from engine.worker.service import Worker

_MIN_TOKEN = 32
_EVERY_INTERFACE = ("", "0.0.0.0", "::")  # noqa: S104


@click.group("server")
def server() -> None:
    """Serve the REST interfaces."""


@server.command("start")
@click.option(
    "--addr", "-addr", metavar="HOST:PORT", help="Where to listen (127.0.0.1:8080); :PORT, or unix:PATH."
)
@click.option("--host", metavar="HOST", help="The host of --addr alone.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="PORT", help="The port of --addr alone; 0: a free one."
)
@stacked(db_option, data_dir_option)
@click.option(
    "--workers", type=int, metavar="N", help="1: work in this process (default), N: in N more, 0: not at all."
)
@click.option("--max-concurrency", "-max-concurrency", type=int, metavar="N", help="Tasks at a time (10).")
@click.option(
    "--shutdown-timeout", "-shutdown-timeout", type=DURATION, help="Wait for running tasks at a stop (15s)."
)
@functions_option
@click.option("--grpc-addr", "-grpc-addr", metavar="ADDR", help="Accepted; gRPC is not in this build.")
@click.option("--shared", is_flag=True, default=None, help="Let other processes use the same SQLite file.")
@click.option("--insecure-no-auth", is_flag=True, default=None, help="Serve other machines without a token.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level logged."
)
@config_option
def start(host: str | None, port: int | None, **flags: Any) -> None:
    """Serve until SIGTERM or Ctrl-C: then take no more requests and let running tasks end. Twice: at once.

    Flags with one dash (-addr, -data-dir …) are those of ExecGo. Without --config, settings are read from
    configs/engine.yaml, config/engine.yaml or engine.yaml, if there is one.
    """
    serve_and_work(host, port, flags)


def serve_and_work(
    host: str | None, port: int | None, flags: dict[str, Any], places: Iterable[str] = CONFIG_PLACES
) -> None:
    """Both commands. If no settings file is named, the first of `places` that is there is read."""
    settings = _settings(host, port, {**flags, "config": flags["config"] or found_config(places)})
    let_output_go()
    configure_logging(settings.log_level)
    hide_secrets_of(settings)
    database = open_database(
        settings,
        exclusive=not settings.shared and settings.workers <= 1,
        if_in_use="stop it, or start both with --shared",
    )
    try:
        if is_sqlite(settings.database):
            upgrade_schema(database)
        else:
            check_schema(database)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings, database))
    finally:
        database.close()


def _settings(host: str | None, port: int | None, flags: dict[str, Any]) -> Settings:
    settings = load(flags)
    if host is None and port is None:
        return settings
    if flags.get("addr") is not None:
        raise click.UsageError("give --addr, or --host and --port")
    configured = settings.address
    address = Address(configured.host if host is None else host, configured.port if port is None else port)
    return load({**flags, "addr": str(address)})


async def _run(settings: Settings, database: Database) -> None:
    stopping = Stopping()
    limits = executor_settings(settings, is_local=settings.address.is_loopback, protected=database.files)
    registry = ExecutorRegistry.from_entry_points(limits)
    options = await api_options(settings, database)
    await functions.register(database, registry.functions())  # those of workers to come, too
    if "grpc_addr" in settings.model_fields_set:
        emit("server.grpc_unavailable", level="warning", addr=settings.grpc_addr, reason="not in this build")
    if settings.workers == 0 and database.is_private:
        emit(
            "server.nobody_works", level="warning", reason="no other process may use the file", see="--shared"
        )
    bound, port = asyncio.Event(), 0

    def on_ready(number: int) -> None:
        nonlocal port
        port = number
        bound.set()

    serving = asyncio.create_task(
        serve(
            create_app(database, registry, options),
            host=settings.address.host,
            port=settings.address.port,
            uds=settings.address.path,
            stop=stopping.stop,
            grace_seconds=settings.shutdown_timeout,
            on_ready=on_ready,
        )
    )
    listening = asyncio.create_task(bound.wait())
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if serving.done():
        return await serving  # raises why
    workers = _Workers(settings, database, registry, limits, stopping)
    await workers.start()
    address = replace(settings.address, port=port)
    emit(
        "server.started",
        version=__version__,
        addr=str(address),
        url=address.url,
        database=shown(database.url),
        workers=settings.workers,
        auth="token" if options.require_token else "none",
        instance=settings.instance_name,
        env=settings.env,
        config=None if settings.config is None else str(settings.config),
    )
    note(f"✅ Task Engine Server started on {_short(address)}")
    waiting = asyncio.create_task(stopping.stop.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    stopping.stop.set()
    await stopping.finish(asyncio.gather(serving, workers.drain()))
    emit("server.stopped")
    return None


def _short(address: Address) -> str:
    """As Go writes it: every interface is left out."""
    is_every = address.path is None and address.host in _EVERY_INTERFACE
    return f":{address.port}" if is_every else str(address)


@dataclass(slots=True)
class _Workers:
    """None, one in this process, or a pool of processes."""

    settings: Settings
    database: Database
    registry: ExecutorRegistry
    limits: ExecutorSettings
    stopping: Stopping
    _worker: Worker | None = None
    _pool: asyncio.Task[int] | None = None

    async def start(self) -> None:
        options = worker_options(self.settings)
        if self.settings.workers == 1:
            self._worker = Worker(self.database, self.registry, options)
            await self._worker.start()
        elif self.settings.workers > 1:
            spec = PoolSpec(
                url=self.settings.database,
                processes=self.settings.workers,
                options=options,
                executor_settings=self.limits,
                wake_others=self.settings.wake,
                run_defaults=self.settings.run_defaults,
                log_level=self.settings.log_level,
            )
            self._pool = asyncio.create_task(run_pool(spec, self.stopping.stop, self.stopping.force))

    async def drain(self) -> None:
        if self._worker is not None:
            await self._worker.drain(self.settings.shutdown_timeout)
        if self._pool is not None:
            await self._pool


# --- who may call


async def api_options(settings: Settings, database: Database) -> ApiOptions:
    """Raises `ConfigError` for an address of other machines without a token."""
    address = settings.address
    secret = settings.bootstrap_token.get_secret_value() if settings.bootstrap_token else None
    if secret is not None and (len(secret) < _MIN_TOKEN or not secret.isascii() or not secret.isprintable()):
        raise ConfigError(f"bootstrap_token must have at least {_MIN_TOKEN} printable ASCII characters")
    require_token = not address.is_loopback and not settings.insecure_no_auth
    if require_token and secret is None and not await _has_token(database):
        raise ConfigError(_REFUSAL.format(address=address))
    return ApiOptions(
        version=f"v{__version__}",
        started_at=datetime.now(UTC),
        allowed_hosts=tuple(dict.fromkeys((*_hosts(address), *settings.allowed_hosts))),
        require_token=require_token,
        bootstrap_token=secret,
        cors_origins=settings.cors_origins,
        max_open_tasks=settings.max_open_tasks,
        read_timeout_seconds=settings.read_timeout,
        write_timeout_seconds=settings.write_timeout,
        access_log=settings.access_log,
    )


_REFUSAL = (
    "other machines could reach {address}, and there is no token yet. Make one with "
    "`task-engine token create --name admin --scope admin` (same --db), or set ENGINE_BOOTSTRAP_TOKEN, or "
    "listen on 127.0.0.1, or accept the risk with --insecure-no-auth (ENGINE_INSECURE_NO_AUTH=1)"
)


async def _has_token(database: Database) -> bool:
    now = datetime.now(UTC)
    return any(
        token.revoked_at is None and (token.expires_at is None or token.expires_at > now)
        for token in await tokens.list_tokens(database)
    )


def _hosts(address: Address) -> list[str]:
    """Names under which a request may mean us: a page that had its own name point here is turned away."""
    if address.is_loopback:
        return [*LOOPBACK_HOSTS, _in_header(address.host)]
    names = [address.host, socket.gethostname(), socket.getfqdn()]
    for addresses in psutil.net_if_addrs().values():
        names += [found.address for found in addresses if found.family in (socket.AF_INET, socket.AF_INET6)]
    return [*LOOPBACK_HOSTS, *(_in_header(name) for name in names if name)]


def _in_header(host: str) -> str:
    plain = host.partition("%")[0]
    return f"[{plain}]" if ":" in plain else plain
