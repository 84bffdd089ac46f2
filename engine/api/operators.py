"""Routes of `/api/v1` for operators: workers, limits and tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post, put
from litestar.params import FromPath, FromQuery, QueryParameter

from engine.api.answers import FieldError, InvalidFields, Problem
from engine.api.bodies import decode, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import name_of, token_out, validate, worker_out
from engine.api.run_wire import LimitIn, LimitOut, Limits, NewToken, TokenIn, Tokens, Workers
from engine.model.records import LimitUse
from engine.operations import limits, tokens, workers

Limit = Annotated[int, QueryParameter(ge=1, le=500)]
Offset = Annotated[int, QueryParameter(ge=0, le=1_000_000_000)]
_documents: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


@get("/api/v1/workers", responses=refusals(Problem, 422, 503), summary="Worker sessions", tags=["Operators"])
async def list_workers(
    request: ApiRequest, live: FromQuery[bool] = False, limit: Limit = 100, offset: Offset = 0
) -> Workers:
    """Newest first. Ended sessions are shown for a while, unless `live` is true."""
    sessions = await workers.list_sessions(
        services_of(request).database, only_live=live, limit=limit, offset=offset
    )
    return Workers([worker_out(session) for session in sessions])


@get("/api/v1/tokens", responses=refusals(Problem, 422, 503), summary="API tokens", tags=["Operators"])
async def list_tokens(request: ApiRequest, limit: Limit = 100, offset: Offset = 0) -> Tokens:
    """Oldest first, revoked ones too."""
    found = await tokens.list_tokens(services_of(request).database, limit=limit, offset=offset)
    return Tokens([token_out(token) for token in found])


@post(
    "/api/v1/tokens",
    status_code=201,
    operation_class=body_operation("TokenIn"),
    responses=refusals(Problem, 400, 413, 422, 503),
    summary="Make an API token",
    tags=["Operators"],
)
async def create_token(request: ApiRequest) -> Response[NewToken]:
    wanted = validate(TokenIn, decode(_documents, await read_small_body(request)))
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise InvalidFields([FieldError("/expires_at", "is in the past")])
    secret = await tokens.create(
        services_of(request).database,
        name=wanted.name,
        scopes=list(wanted.scopes),
        expires_at=wanted.expires_at,
    )
    return Response(NewToken(secret.split("_")[1], secret), headers={"cache-control": "no-store"})


@delete(
    "/api/v1/tokens/{token_id:str}",
    status_code=204,
    responses=refusals(Problem, 404, 503),
    summary="Revoke an API token",
    tags=["Operators"],
)
async def revoke_token(request: ApiRequest, token_id: FromPath[str]) -> None:
    """Takes effect everywhere within ten seconds."""
    await tokens.revoke(services_of(request).database, name_of(text_of_segment(token_id), "token"))


@get("/api/v1/limits", responses=refusals(Problem, 422, 503), summary="Limits", tags=["Operators"])
async def list_limits(request: ApiRequest, limit: Limit = 100, offset: Offset = 0) -> Limits:
    """By key. Tasks bring limits along, or an operator sets them."""
    found = await limits.list_limits(services_of(request).database, limit=limit, offset=offset)
    return Limits([_limit_out(each) for each in found])


@put(
    "/api/v1/limits/{key:str}",
    operation_class=body_operation("LimitIn"),
    responses=refusals(Problem, 400, 413, 422, 503),
    summary="Set a limit",
    tags=["Operators"],
)
async def put_limit(request: ApiRequest, key: FromPath[str]) -> LimitOut:
    """From the next claim on; what runs goes on. `*` holds for every task that is submitted from now on."""
    wanted = validate(LimitIn, decode(_documents, await read_small_body(request)))
    database, name = services_of(request).database, text_of_segment(key)
    return _limit_out(await limits.put(database, name, wanted.at_most, actor=actor_of(request)))


@delete(
    "/api/v1/limits/{key:str}",
    status_code=204,
    responses=refusals(Problem, 404, 503),
    summary="Lift a limit",
    tags=["Operators"],
)
async def lift_limit(request: ApiRequest, key: FromPath[str]) -> None:
    """As many tasks may run as there are workers for."""
    name = name_of(text_of_segment(key), "limit")
    await limits.lift(services_of(request).database, name, actor=actor_of(request))


def _limit_out(use: LimitUse) -> LimitOut:
    return LimitOut(use.key, use.at_most, use.running)


ROUTES = [list_workers, list_limits, put_limit, lift_limit, list_tokens, create_token, revoke_token]
