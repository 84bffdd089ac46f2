"""The REST application: all routes, around them the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi.config import OpenAPIConfig

from engine.api import operators, runs
from engine.api.access import Access
from engine.api.answers import answer_error
from engine.api.documents import Completion, DocumentFile, OfflinePage, struct_schemas
from engine.api.edge import Edge
from engine.api.execgo import adapters, mcp, system, tasks
from engine.api.execgo.translation import Kinds
from engine.api.execgo.wire import AdapterRequestIn, GraphIn, McpCallIn
from engine.api.options import ApiOptions, Services
from engine.api.run_wire import RunIn, TokenIn
from engine.executors.registry import ExecutorRegistry
from engine.operations.totals import Admission
from engine.store.database import Database

ROUTES: list[Any] = [
    *system.ROUTES,
    *tasks.ROUTES,
    *mcp.ROUTES,
    *adapters.ROUTES,
    *runs.ROUTES,
    *operators.ROUTES,
]


def create_app(
    database: Database,
    registry: ExecutorRegistry,
    options: ApiOptions,
    health: Callable[[], dict[str, Any]] | None = None,
) -> Litestar:
    """The application; `health` adds keys to the answer of `/health`. Owns neither database nor registry."""
    access = Access(database, options)
    services = Services(
        database=database,
        registry=registry,
        options=options,
        admission=Admission(database, options.max_open_tasks),
        health=health or dict,
    )
    app = Litestar(
        route_handlers=ROUTES,
        exception_handlers={Exception: answer_error},
        state=State({"services": services, "execgo_kinds": Kinds.of(registry)}),
        openapi_config=_openapi(options),
        logging_config=None,
        request_max_body_size=None,  # `bodies.read_body` keeps the limits
        on_shutdown=[access.close],
    )
    app.asgi_handler = Edge(app.asgi_handler, options, access)
    return app


def _openapi(options: ApiOptions) -> OpenAPIConfig:
    completion = Completion(_body_schemas(), require_token=options.require_token)
    return OpenAPIConfig(
        title="Task Engine",
        version=options.version,
        description="A durable DAG job engine. The routes without /api are the ExecGo contract.",
        render_plugins=[OfflinePage(completion), DocumentFile(completion)],
        use_handler_docstrings=True,
    )


def _body_schemas() -> dict[str, Any]:
    schemas = struct_schemas([GraphIn, McpCallIn, AdapterRequestIn])
    for model in (RunIn, TokenIn):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return schemas
