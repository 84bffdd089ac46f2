"""Route of `/api/v1/functions`: what workflows may call, and who has code for it."""

from __future__ import annotations

from litestar import get
from litestar.params import FromQuery

from engine.api.answers import EnvelopeBody
from engine.api.documents import refusals
from engine.api.options import ApiRequest, services_of
from engine.api.workflows.wire import Envelope, Functions
from engine.api.workflows.workflow_translation import functions_of
from engine.api.workflows.workflows import DEFAULT_LIMIT, Limit, Offset, ok
from engine.operations import functions


@get(
    "/api/v1/functions",
    responses=refusals(EnvelopeBody, 400, 503),
    summary="Registered functions by name",
    tags=["Functions"],
)
async def list_functions(
    request: ApiRequest,
    is_missing: FromQuery[bool | None] = None,
    limit: Limit = 0,
    offset: Offset = 0,
) -> Envelope[Functions]:
    """All that some process has ever registered. A missing one is one that no live worker has code for."""
    total, found = await functions.list_functions(
        services_of(request).database, is_missing=is_missing, limit=limit or DEFAULT_LIMIT, offset=offset
    )
    return ok(functions_of(total, found, offset))


ROUTES = [list_functions]
