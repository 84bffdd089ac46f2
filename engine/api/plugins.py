"""Routes of `/api/v1/plugins`: at which events of workflows which plug-ins are called."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, QueryParameter

from engine.api.answers import Problem
from engine.api.bodies import decode, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import name_of
from engine.executors.plugin import plugins_of
from engine.model.plugins import Binding, PluginEvent
from engine.operations import plugins

Limit = Annotated[int, QueryParameter(ge=1, le=500)]
Offset = Annotated[int, QueryParameter(ge=0, le=1_000_000_000)]


class PluginBindingIn(msgspec.Struct, forbid_unknown_fields=True):
    """`condition` is CEL over `event`, `workflow`, `error` and, for events of tasks, `task`. `workflow_id`
    may be a name; without it the binding is one to every workflow."""

    plugin: str
    event: PluginEvent
    id: str | None = None
    condition: str | None = None
    params: dict[str, Any] | None = None
    workflow_id: str | None = None
    is_enabled: bool = True


class PluginBinding(msgspec.Struct):
    id: str
    plugin: str
    event: PluginEvent
    condition: str | None
    params: dict[str, Any]
    workflow_id: str | None
    is_enabled: bool
    created_at: datetime | None


class PluginBindings(msgspec.Struct):
    bindings: list[PluginBinding]


_documents: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


@get(
    "/api/v1/plugins/bindings",
    responses=refusals(Problem, 422, 503),
    summary="Bindings of plug-ins to events",
    tags=["Plug-ins"],
)
async def list_bindings(request: ApiRequest, limit: Limit = 100, offset: Offset = 0) -> PluginBindings:
    """By id."""
    found = await plugins.list_bindings(services_of(request).database, limit=limit, offset=offset)
    return PluginBindings([_binding_out(binding) for binding in found])


@post(
    "/api/v1/plugins/bindings",
    status_code=201,
    operation_class=body_operation("PluginBindingIn"),
    responses=refusals(Problem, 400, 404, 413, 422, 503),
    summary="Bind a plug-in to an event",
    tags=["Plug-ins"],
)
async def bind(request: ApiRequest) -> PluginBinding:
    """It takes the place of a binding with its id, and counts for runs that start later."""
    wanted = Binding.of(decode(_documents, await read_small_body(request)))
    services = services_of(request)
    [kept] = await plugins.bind(
        services.database, wanted, plugins=plugins_of(services.registry), actor=actor_of(request)
    )
    return _binding_out(kept)


@delete(
    "/api/v1/plugins/bindings/{binding_id:str}",
    status_code=204,
    responses=refusals(Problem, 404, 503),
    summary="Take a binding back",
    tags=["Plug-ins"],
)
async def unbind(request: ApiRequest, binding_id: FromPath[str]) -> None:
    """Events that were not told yet are not told any more."""
    word = name_of(text_of_segment(binding_id), "binding")
    await plugins.unbind(services_of(request).database, word, actor=actor_of(request))


def _binding_out(binding: Binding) -> PluginBinding:
    return PluginBinding(
        id=binding.id,
        plugin=binding.plugin,
        event=binding.event,
        condition=binding.condition,
        params=dict(binding.params),
        workflow_id=binding.workflow_id,
        is_enabled=binding.is_enabled,
        created_at=binding.created_at,
    )


ROUTES = [list_bindings, bind, unbind]
