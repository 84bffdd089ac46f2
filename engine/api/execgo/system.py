"""What answers here, health, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from engine.api.answers import ErrorBody, Problem
from engine.api.documents import refusals
from engine.api.execgo.tasks import kinds_of
from engine.api.execgo.translation import Kinds
from engine.api.execgo.wire import Health, HealthData, Index, Metrics
from engine.api.options import ApiRequest, services_of
from engine.errors import SchemaMismatch, StoreUnavailable
from engine.operations import totals

PROMETHEUS = "text/plain; version=0.0.4"  # Litestar adds the charset
_READY_SECONDS = 5.0


_LINKS = {
    "schema": "/schema",
    "openapi": "/schema/openapi.json",
    "health": "/health",
    "tasks": "/tasks",
    "runs": "/api/v1/runs",
}


@get("/", summary="What this server is, and where to go on", tags=["System"])
async def index(request: ApiRequest) -> Index:
    return Index("Task Engine", services_of(request).options.version, _LINKS)


@get("/health", summary="Whether the server is alive", tags=["System"])
async def health(request: ApiRequest) -> Health:
    """Asks nobody else: a server whose database is away is alive, though not ready."""
    options, now = services_of(request).options, datetime.now(UTC)
    version, uptime = options.version, format_uptime(now - options.started_at)
    data = HealthData("healthy", version, uptime, now)
    return Health(status="ok", version=version, uptime=uptime, data=data)


def format_uptime(elapsed: timedelta) -> str:
    """`9s`, `1m0s`, `1h2m3s`."""
    seconds = max(0, int(elapsed.total_seconds()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    text = f"{seconds % 60}s"
    if seconds >= 60:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


@get(
    "/ready",
    responses=refusals(Problem, 503),
    summary="Whether the server can take work",
    tags=["System"],
)
async def ready(request: ApiRequest) -> dict[str, Any]:
    """The database answers with this release's tables, and what a commit survives there."""
    database = services_of(request).database
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await totals.read(database)
            durability = await asyncio.to_thread(database.durability)
    except TimeoutError:
        raise StoreUnavailable("the database does not answer") from None
    except StoreUnavailable:
        raise
    except Exception as error:  # whatever the driver says: we cannot work with this database
        raise SchemaMismatch("the database does not have this release's tables") from error
    return {
        "status": "ready",
        "database": database.dialect.drivername.partition("+")[0],
        "durability": durability.level,
        "is_durable": durability.is_durable,
        "remarks": list(durability.remarks),
    }


@get(
    "/metrics",
    responses={200: ResponseSpec(Metrics, description="Counters", generate_examples=False)}
    | refusals(ErrorBody, 503),
    summary="Counters as JSON; as Prometheus text if `Accept` asks for it",
    tags=["System"],
)
async def metrics(request: ApiRequest) -> Response[Any]:
    counters = await totals.read(services_of(request).database)
    if _wants_text(request.headers.get("accept", "")):
        return Response(prometheus(counters), media_type=PROMETHEUS)
    return Response(metrics_out(counters, kinds_of(request)))


@get(
    "/metrics/prometheus",
    media_type=PROMETHEUS,
    responses=refusals(ErrorBody, 503),
    summary="Counters as Prometheus text",
    tags=["System"],
)
async def prometheus_metrics(request: ApiRequest) -> str:
    return prometheus(await totals.read(services_of(request).database))


def _wants_text(accept: str) -> bool:
    return "json" not in accept and ("text/plain" in accept or "openmetrics" in accept)


def metrics_out(counters: Counter[str], kinds: Kinds) -> Metrics:
    by_type: Counter[str] = Counter()
    for name, value in counters.items():
        if name.startswith("submitted:"):
            by_type[kinds.type_of(name.removeprefix("submitted:"))] += value
    return Metrics(
        tasks_total=by_type.total(),
        tasks_running=counters["running"],
        tasks_succeeded=counters["succeeded"],
        tasks_failed=counters["failed"] + counters["cancelled"] + counters["skipped"],
        by_type=dict(sorted(by_type.items())),
    )


# --- the text format of Prometheus


_FAMILIES = (  # name, type, help, label, and the counters behind it: (name, value of the label)
    ("engine_tasks_open", "gauge", "Tasks that are not final.", "", (("open", ""),)),
    ("engine_tasks_running", "gauge", "Tasks that a worker holds.", "", (("running", ""),)),
    ("engine_attempts_started_total", "counter", "Attempts that began.", "", (("started", ""),)),
    ("engine_attempts_retried_total", "counter", "Attempts followed by another.", "", (("retried", ""),)),
    ("engine_late_results_total", "counter", "Results refused for a lost lease.", "", (("late", ""),)),
    (
        "engine_tasks_finished_total",
        "counter",
        "Tasks that became final.",
        "state",
        tuple((state, state) for state in ("succeeded", "failed", "skipped", "cancelled")),
    ),
)


def prometheus(counters: Counter[str]) -> str:
    lines = _family("engine_tasks_submitted_total", "counter", "Tasks accepted.")
    for name, value in sorted(counters.items()):
        if name.startswith("submitted:"):
            kind = _escaped(name.removeprefix("submitted:"))
            lines.append(f'engine_tasks_submitted_total{{kind="{kind}"}} {value}')
    for family, type_, text, label, members in _FAMILIES:
        lines += _family(family, type_, text)
        for counter, value_of_label in members:
            labels = f'{{{label}="{value_of_label}"}}' if label else ""
            lines.append(f"{family}{labels} {counters[counter]}")
    return "\n".join(lines) + "\n"


def _family(name: str, type_: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {type_}"]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


ROUTES = [index, health, ready, metrics, prometheus_metrics]
