"""The REST application: all routes, around them the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import ValidationException
from litestar.openapi.config import OpenAPIConfig

from engine.api import continuations, operators, plugins, runs
from engine.api.access import Access
from engine.api.answers import answer_error
from engine.api.continuation_wire import SignalIn, SignOffIn, SkipIn
from engine.api.documents import Completion, DocumentFile, OfflinePage, struct_schemas
from engine.api.edge import Edge
from engine.api.execgo import adapters, mcp, system, tasks
from engine.api.execgo.adapter_translation import ACTION_KINDS
from engine.api.execgo.translation import Kinds
from engine.api.execgo.wire import AdapterRequestIn, GraphIn, McpCallIn
from engine.api.options import ApiOptions, Services
from engine.api.parameters import answer_parameters, check_whole_numbers
from engine.api.plugins import PluginBindingIn
from engine.api.run_wire import CancelIn, LimitIn, RunIn, TokenIn
from engine.api.streams import Tail
from engine.api.workflows import events, functions, instances, schedules, streams, workflows
from engine.api.workflows.events import EventIn
from engine.api.workflows.wire import ExecuteIn, ScheduleChangeIn, ScheduleIn, UploadIn
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import MAX_NAME
from engine.operations.totals import Admission
from engine.store.database import Database

ROUTES: list[Any] = [
    *system.ROUTES,
    *tasks.ROUTES,
    *mcp.ROUTES,
    *adapters.ROUTES,
    *runs.ROUTES,
    *continuations.ROUTES,
    *operators.ROUTES,
    *plugins.ROUTES,
    *workflows.ROUTES,
    *instances.ROUTES,
    *events.ROUTES,
    *schedules.ROUTES,
    *functions.ROUTES,
    *streams.ROUTES,
]


def create_app(
    database: Database, registry: ExecutorRegistry, options: ApiOptions, routes: Routes | None = None
) -> Litestar:
    """The application. Owns neither database nor registry. `routes` can serve one after another."""
    routes = routes or Routes(registry, options)
    access = Access(database, options)
    services = Services(
        database=database,
        registry=registry,
        options=options,
        admission=Admission(database, options.max_open_tasks),
        tail=Tail(database),
    )
    app = routes.app
    app.state = State({"services": services, "execgo_kinds": Kinds.of(registry)})
    app.on_shutdown = [services.tail.close, access.close]
    app.asgi_handler = Edge(routes.handler, options, access)
    return app


class Routes:
    """All routes, without a database; registering them takes most of the time that an application takes."""

    def __init__(self, registry: ExecutorRegistry, options: ApiOptions) -> None:
        self.app = Litestar(
            route_handlers=ROUTES,
            exception_handlers={Exception: answer_error, ValidationException: answer_parameters},
            openapi_config=_openapi(options, registry),
            logging_config=None,
            before_request=check_whole_numbers,
            request_max_body_size=None,  # `bodies.read_body` keeps the limits
        )
        self.handler = self.app.asgi_handler


def _openapi(options: ApiOptions, registry: ExecutorRegistry) -> OpenAPIConfig:
    completion = Completion(_body_schemas(registry.kinds()), require_token=options.require_token)
    return OpenAPIConfig(
        title="Task Engine",
        version=options.version,
        description="A durable DAG job engine. The routes without /api are the ExecGo contract.",
        render_plugins=[OfflinePage(completion), DocumentFile(completion)],
        use_handler_docstrings=True,
    )


def _body_schemas(kinds: Sequence[str]) -> dict[str, Any]:
    schemas = struct_schemas(
        [
            *(GraphIn, McpCallIn, AdapterRequestIn, CancelIn),
            *(UploadIn, ExecuteIn, ScheduleIn, ScheduleChangeIn),
            *(SignalIn, SkipIn, SignOffIn, EventIn),
            PluginBindingIn,
        ]
    )
    for model in (RunIn, TokenIn, LimitIn):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for owner, field, schema in (  # what only the engine knows, or words in the contract's own way
        (
            "GraphIn",
            "tasks",
            {"type": "array", "items": {"$ref": "#/components/schemas/TaskIn"}, "minItems": 1},
        ),
        ("TaskIn", "id", {"type": "string", "minLength": 1, "maxLength": MAX_NAME}),
        ("TaskIn", "type", {"type": "string", "enum": sorted(kinds)}),
        ("RunTaskIn", "kind", {"type": "string", "enum": sorted(kinds)}),
        ("AdapterActionIn", "kind", {"type": "string", "enum": ACTION_KINDS}),
    ):
        schemas[owner]["properties"][field] = schema
    return schemas
