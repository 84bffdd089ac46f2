"""Tokens, scopes, and web pages of other people."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.api import access
from engine.api.access import SCOPES, scope_of
from engine.operations import tokens
from engine.store.database import Database
from engine.store.schema import token as token_table
from tests.api.service import Service

pytestmark = pytest.mark.anyio
SUBMIT: Any = {"tasks": [{"id": "a", "type": "noop"}]}


async def bearer(service: Service, *scopes: str, **more: Any) -> dict[str, str]:
    secret = await tokens.create(service.database, name="test", scopes=list(scopes), **more)
    return {"authorization": f"Bearer {secret}"}


# --- the table


async def test_every_route_has_a_scope(service: Service) -> None:
    """What has none is not served: not even the page that Litestar would show for `/schema/{path}`."""
    routes = {
        (method, route.path_format)
        for route in service.app.routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS"
    }
    assert routes - {("GET", "/schema/{path}")} == set(SCOPES)
    assert (await service.client.get("/schema/path")).status_code == 404


def test_unknown_routes_have_no_scope() -> None:
    assert scope_of("PATCH", "/tasks") is None
    assert scope_of("GET", "/new") is None
    assert scope_of("GET", "/tasks/a%2Fb") == "read"
    assert scope_of("DELETE", "/api/v1/runs/7") == "control"


# --- tokens


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dTpw"},
        {"authorization": "Bearer te_000000000000_wrong"},
        {"authorization": "Bearer te_"},
        {"authorization": "Bearer " + "x" * 100_000},
        {"authorization": "Bearer \xe9\xe9".encode("latin-1")},
        {"authorization": "Bearer a\tb"},
    ],
)
async def test_without_a_valid_token_the_answer_is_always_the_same(guarded: Service, headers: Any) -> None:
    expected = {"error": "a valid bearer token is required"}
    for method, path in (("GET", "/tasks"), ("GET", "/tasks/a"), ("POST", "/tasks"), ("GET", "/metrics")):
        response = await guarded.client.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.json() == expected
        assert response.headers["www-authenticate"].startswith("Bearer")
    native = await guarded.client.get("/api/v1/nothing", headers=headers)
    assert native.status_code == 401
    assert native.headers["content-type"] == "application/problem+json"


async def test_root_health_and_ready_are_open(guarded: Service) -> None:
    assert (await guarded.client.get("/")).status_code == 200
    assert (await guarded.client.get("/health")).status_code == 200
    assert (await guarded.client.get("/ready")).status_code == 200


async def test_scope_decides(guarded: Service) -> None:
    read, submit = await bearer(guarded, "read"), await bearer(guarded, "submit")
    admin = await bearer(guarded, "admin")
    assert (await guarded.client.get("/tasks", headers=read)).status_code == 200
    refused = await guarded.client.post("/tasks", json=SUBMIT, headers=read)
    assert refused.status_code == 403
    assert refused.json() == {"error": "the token lacks the scope submit"}
    assert guarded.rows()["run"] == 0
    assert (await guarded.client.post("/tasks", json=SUBMIT, headers=submit)).status_code == 202
    assert (await guarded.client.get("/tasks", headers=submit)).status_code == 403
    assert (await guarded.client.delete("/tasks/a", headers=submit)).status_code == 403
    assert (await guarded.client.get("/api/v1/tokens", headers=read)).status_code == 403
    assert (await guarded.client.get("/api/v1/tokens", headers=admin)).status_code == 200
    assert (await guarded.client.delete("/tasks/a", headers=admin)).status_code == 204
    assert (await guarded.client.get("/nothing", headers=read)).status_code == 404
    assert (await guarded.client.put("/tasks", headers=read)).status_code == 405
    assert (await guarded.client.get("/nothing")).status_code == 401


async def test_every_route_refuses_a_token_of_another_scope(guarded: Service) -> None:
    worker = await bearer(guarded, "worker")
    for (method, path), scope in SCOPES.items():
        if scope == access.OPEN:
            continue
        target = path.replace("{", "").replace("}", "")
        assert (await guarded.client.request(method, target, headers=worker)).status_code == 403, path
        assert (await guarded.client.request(method, target)).status_code == 401, path


async def test_expired_and_revoked_tokens_are_refused(
    guarded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = await bearer(guarded, "read", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert (await guarded.client.get("/tasks", headers=expired)).status_code == 401
    revoked = await bearer(guarded, "read")
    assert (await guarded.client.get("/tasks", headers=revoked)).status_code == 200
    await tokens.revoke(guarded.database, revoked["authorization"].split("_")[1])
    assert (await guarded.client.get("/tasks", headers=revoked)).status_code == 200  # remembered
    monkeypatch.setattr(access.time, "monotonic", lambda now=access.time.monotonic: now() + 11)
    assert (await guarded.client.get("/tasks", headers=revoked)).status_code == 401


async def test_events_name_the_token(guarded: Service) -> None:
    admin = await bearer(guarded, "admin")
    token_id = admin["authorization"].split("_")[1]
    await guarded.client.post("/tasks", json=SUBMIT, headers=admin)
    [run] = (await guarded.client.get("/api/v1/runs", headers=admin)).json()["runs"]
    [event] = (await guarded.client.get(f"/api/v1/runs/{run['id']}/events", headers=admin)).json()["events"]
    assert event["actor"] == f"token:{token_id}"


async def test_bootstrap_token_may_do_everything(guarded: Service) -> None:
    headers = {"authorization": "Bearer " + "b" * 40}
    made = await guarded.client.post(
        "/api/v1/tokens", json={"name": "x", "scopes": ["read"]}, headers=headers
    )
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    fresh = {"authorization": f"Bearer {made.json()['token']}"}
    assert (await guarded.client.get("/tasks", headers=fresh)).status_code == 200
    wrong = {"authorization": "Bearer " + "b" * 39 + "c"}
    assert (await guarded.client.get("/tasks", headers=wrong)).status_code == 401


async def test_use_is_noted_at_most_once_a_minute(guarded: Service) -> None:
    read = await bearer(guarded, "read")

    def last_used() -> Any:
        return guarded.database.read_sync(
            lambda tx: tx.execute(sa.select(token_table.c.last_used_at)).scalar_one()
        )

    await guarded.client.get("/tasks", headers=read)
    await guarded.settle()
    first = last_used()
    assert first is not None
    await guarded.client.get("/tasks", headers=read)
    await guarded.settle()
    assert last_used() == first


@pytest.mark.parametrize("text", ["x", "te_", "te_00000000000g_" + "x" * 43, "te_000000000000_" + "x" * 42])
async def test_what_cannot_be_a_token_costs_no_look_up(
    guarded: Service, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(tokens, "recognise", None)  # calling it would be a 500
    response = await guarded.client.get("/tasks", headers={"authorization": f"Bearer {text}"})
    assert response.status_code == 401


async def test_a_flood_of_wrong_tokens_looks_two_up_at_a_time(
    guarded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = most = 0

    async def slow(*_: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _turn in range(10):
            await asyncio.sleep(0)  # let the others come
        now -= 1

    monkeypatch.setattr(tokens, "recognise", slow)
    wrong = [{"authorization": f"Bearer te_{number:012x}_{'x' * 43}"} for number in range(20)]
    answers = await asyncio.gather(*(guarded.client.get("/tasks", headers=headers) for headers in wrong))
    assert {answer.status_code for answer in answers} == {401}
    assert most == 2


async def test_two_authorizations_are_refused(guarded: Service) -> None:
    read = await bearer(guarded, "read")
    headers = [*read.items(), *read.items()]
    assert (await guarded.client.get("/tasks", headers=headers)).status_code == 400


async def test_idempotency_keys_of_two_tokens_do_not_meet(guarded: Service) -> None:
    for _ in range(2):
        headers = {**await bearer(guarded, "submit"), "idempotency-key": "k"}
        assert (await guarded.client.post("/tasks", json=SUBMIT, headers=headers)).status_code == 202
    assert guarded.rows()["run"] == 2


# --- web pages


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"])
async def test_own_hosts_are_served(service: Service, host: str) -> None:
    assert (await service.client.get("/tasks", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8080",
        "a@localhost",
        "localhost:",
        "::1",
    ],
)
async def test_foreign_hosts_are_refused(service: Service, host: str) -> None:
    response = await service.client.post("/tasks", json=SUBMIT, headers={"host": host})
    assert response.status_code in (400, 403)
    assert response.headers["x-trace-id"]
    assert service.rows()["run"] == 0


FOREIGN: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://localhost:3000"},
    {"origin": "http://localhost:8080.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_pages_of_others_can_do_nothing(service: Service, headers: dict[str, str]) -> None:
    await service.submit({"id": "a", "type": "noop"})
    before = service.rows()
    requests = [
        ("POST", "/tasks"),
        ("DELETE", "/tasks/a"),
        ("GET", "/tasks"),
        ("POST", "/api/v1/runs/1/cancel"),
        ("OPTIONS", "/tasks"),
        ("POST", "/mcp/call"),
    ]
    for method, path in requests:
        response = await service.client.request(
            method,
            path,
            content=b'{"tasks":[{"id":"b","type":"noop"}]}',
            headers={"content-type": "text/plain", **headers},
        )
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert service.rows() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:8080", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
    ],
)
async def test_own_pages_and_programs_are_served(service: Service, headers: dict[str, str]) -> None:
    assert (await service.client.post("/tasks", json=SUBMIT, headers=headers)).status_code == 202


async def test_a_link_from_elsewhere_may_be_followed(service: Service) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await service.client.get("/schema", headers=headers)).status_code == 200
    assert (await service.client.post("/tasks", json=SUBMIT, headers=headers)).status_code == 403


async def test_listed_origins_may_call(database: Database, tmp_path: Path) -> None:
    async with Service.of(database, tmp_path, cors_origins=("https://ui.example",)) as service:
        headers = {"origin": "https://ui.example", "sec-fetch-site": "cross-site"}
        response = await service.client.post("/tasks", json=SUBMIT, headers=headers)
        assert response.status_code == 202
        assert response.headers["access-control-allow-origin"] == "https://ui.example"
        preflight = await service.client.options(
            "/tasks", headers={**headers, "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        other = await service.client.options(
            "/tasks", headers={"origin": "https://x.example", "access-control-request-method": "POST"}
        )
        assert other.status_code == 403


async def test_any_host_can_be_allowed(database: Database, tmp_path: Path) -> None:
    async with Service.of(database, tmp_path, allowed_hosts=("*",)) as service:
        assert (await service.client.get("/tasks", headers={"host": "engine.example"})).status_code == 200
