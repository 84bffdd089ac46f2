"""Text that not every database stores: refused everywhere, and nothing is stored."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from engine.api.access import SCOPES
from tests.api.service import Service
from tests.api.test_workflows import data, execute, refused, upload

pytestmark = pytest.mark.anyio

ODD = ["\0", "a\0b", "\ud800", "a\nb", "\x7f", "'", "%", "😀", "x" * 5000]


def encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


async def text_queries(service: Service) -> list[tuple[str, str]]:
    """The GET routes that take text, each with the name of the parameter."""
    document = (await service.client.get("/schema/openapi.json")).json()
    found = []
    for path, item in document["paths"].items():
        for parameter in item.get("get", {}).get("parameters", ()):
            schema = parameter["schema"]
            kinds = {part.get("type") for part in [schema, *schema.get("oneOf", ())]}
            if parameter["in"] == "query" and "string" in kinds:
                found.append((path, parameter["name"]))
    return found


async def test_text_in_queries_is_never_a_server_error(service: Service) -> None:
    await upload(service)
    run = await execute(service)
    queries = await text_queries(service)
    assert {("/api/v1/instances/{instance_id}/logs", "task"), ("/api/v1/runs", "name")} <= set(queries)
    for path, name in queries:
        for text in ODD:
            place = path.format(run_id=run, instance_id=run, workflow_id="orders", version="1")
            answer = await service.client.get(f"{place}?{name}={encoded(text)}")
            assert answer.status_code < 500, (place, name, text)


async def test_text_in_paths_is_never_a_server_error(service: Service) -> None:
    await upload(service)
    run = await execute(service)
    for method, path in SCOPES:
        for text in ODD:
            places = {path.replace("{run_id}", run).replace("{workflow_id}", "orders"), path}
            for place in places:
                filled = "/".join(
                    encoded(text) if part.startswith("{") else part for part in place.split("/")
                )
                answer = await service.client.request(method, filled, content=b"{}")
                assert answer.status_code < 500, (method, filled, answer.text)


async def test_logs_of_a_task_that_cannot_be_are_refused(service: Service) -> None:
    await upload(service)
    run = await execute(service)
    logs = f"/api/v1/instances/{run}/logs"
    assert refused(await service.client.get(f"{logs}?task=%00"), 400) == "?task: contains a control character"
    assert refused(await service.client.get(f"{logs}?task=nope"), 404) == f"instance {run} has no task 'nope'"
    assert await data(await service.client.get(f"{logs}?task=load")) == []
    native = await service.client.get(f"/api/v1/runs/{run}/logs?task=nope")
    assert (native.status_code, native.json()["detail"]) == (404, f"run {run} has no task 'nope'")
    assert (await service.client.get(f"/api/v1/runs/{run}/logs?task=load")).json()["lines"] == []


UNSTORABLE = {
    "NUL": ('{"s": "a\\u0000"}', "params.s: text contains the NUL character"),
    "NUL inside": ('{"s": [{"k": "\\u0000"}]}', "params.s: text contains the NUL character"),
    "NUL in a key": ('{"s": {"\\u0000": 1}}', "params.s: text contains the NUL character"),
    "NUL in a name": ('{"\\u0000": 1}', "params: text contains the NUL character"),
    "integer beyond 64 bits": (f'{{"n": {2**63}}}', "params.n: integer is outside 64 bits"),
    "64 levels": (f'{{"n": {"[" * 64}{"]" * 64}}}', "params.n: nesting is deeper than 63 levels"),
}


@pytest.mark.parametrize(("params", "message"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_parameters_that_cannot_be_stored_start_nothing(
    service: Service, params: str, message: str
) -> None:
    await upload(service)
    run = await execute(service)
    before = service.rows()
    for path in ("workflows/orders/execute", f"instances/{run}/rerun"):
        answer = await service.client.post(f"/api/v1/{path}", content=f'{{"params": {params}}}')
        assert refused(answer, 400) == message
    assert service.rows() == before


async def test_parameters_of_63_levels_are_stored_and_given_back(service: Service) -> None:
    await upload(service)
    for value in (json.loads("[" * 63 + "]" * 63), 2**63 - 1):
        run = await execute(service, params={"region": value})
        shown = await data(await service.client.get(f"/api/v1/instances/{run}"))
        assert shown["params"] == {"region": value}


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\\\\\uD8ff b"', '{"\\ud800": 1}', '"\\ud800\\u0041"'])
async def test_a_lone_surrogate_is_called_one(service: Service, text: str) -> None:
    await upload(service)
    path = f"/api/v1/instances/{await execute(service)}/events"
    answer = await service.client.post(path, content=f'{{"type":"order","payload":{text}}}')
    assert refused(answer, 400) == "invalid JSON: text contains a lone surrogate"


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00', '"\\\\ud800', '"'])
async def test_a_body_that_ends_early_is_still_called_that(service: Service, text: str) -> None:
    await upload(service)
    path = f"/api/v1/instances/{await execute(service)}/events"
    answer = await service.client.post(path, content=f'{{"type":"order","payload":{text}')
    assert refused(answer, 400) == "invalid JSON: Input data was truncated"
