"""Whatever is sent, the contract answers, nothing is stored, and there is no 500."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from engine.operations import runs, submits
from engine.store.database import Database
from tests.api.service import Service

pytestmark = pytest.mark.anyio


def graph(*tasks: dict[str, Any]) -> bytes:
    return json.dumps({"tasks": list(tasks)}).encode()


def with_params(params: str) -> bytes:
    return b'{"tasks":[{"id":"a","type":"noop","params":' + params.encode() + b"}]}"


INVALID_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"tasks": [{"id": "a"',
    "trailing bytes": graph({"id": "a", "type": "noop"}) + b" x",
    "two documents": graph({"id": "a", "type": "noop"}) * 2,
    "array": b"[]",
    "text": b'"tasks"',
    "number": b"1",
    "null": b"null",
    "comment": b'{"tasks": [] /* none */}',
    "trailing comma": b'{"tasks": [],}',
    "leading zero": with_params("01"),
    "plus sign": with_params("+1"),
    "NaN": with_params("NaN"),
    "infinity": with_params("-Infinity"),
    "number beyond doubles": with_params("1e400"),
    "integer beyond 64 bits": with_params(str(2**63)),
    "integer below 64 bits": with_params(str(-(2**63) - 1)),
    "integer of 5000 digits": with_params("9" * 5000),
    "byte order mark": b"\xef\xbb\xbf" + graph({"id": "a", "type": "noop"}),
    "UTF-16": graph({"id": "a", "type": "noop"}).decode().encode("utf-16"),
    "invalid UTF-8": b'{"tasks":[{"id":"\xff","type":"noop"}]}',
    "invalid UTF-8 in an ignored key": b'{"tasks":[{"id":"a","type":"noop"}],"x":"\xff"}',
    "overlong UTF-8": with_params('"\\u0041"').replace(b"\\u0041", b"\xc0\xaf"),
    "surrogates as UTF-8": with_params('"x"').replace(b'"x"', b'"\xed\xa0\x80"'),
    "lone surrogate": with_params('"\\ud800"'),
    "reversed surrogates": with_params('"\\udc00\\ud800"'),
    "raw control character": with_params('"x"').replace(b"x", b"\x01"),
    "NUL in params": with_params('"\\u0000"'),
    "NUL in a key": with_params('{"\\u0000": 1}'),
    "NUL in the tool name": graph({"id": "a", "type": "os", "tool_name": "\0"}),
    "NUL in an annotation": graph({"id": "a", "type": "noop", "annotations": {"k": "\0"}}),
    "65 levels": with_params("[" * 65 + "]" * 65),
    "1000 objects deep": with_params('{"a":' * 1000 + "1" + "}" * 1000),
    "100000 levels": with_params("[" * 100_000 + "]" * 100_000),
    "100000 levels in an ignored key": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "tasks: text": b'{"tasks":"x"}',
    "tasks: object": b'{"tasks":{}}',
    "tasks: a null": b'{"tasks":[null]}',
    "tasks: a text": b'{"tasks":["a"]}',
    "id: number": graph({"id": 5, "type": "noop"}),
    "type: number": graph({"id": "a", "type": 5}),
    "retry: text": graph({"id": "a", "type": "noop", "retry": "2"}),
    "retry: fraction": graph({"id": "a", "type": "noop", "retry": 1.0}),
    "retry: boolean": graph({"id": "a", "type": "noop", "retry": True}),
    "retry: too large": graph({"id": "a", "type": "noop", "retry": 2**63}),
    "timeout: fraction": graph({"id": "a", "type": "noop", "timeout": 1.5}),
    "timeout: text": graph({"id": "a", "type": "noop", "timeout": "P1D"}),
    "depends_on: text": graph({"id": "a", "type": "noop", "depends_on": "a"}),
    "depends_on: numbers": graph({"id": "a", "type": "noop", "depends_on": [1]}),
    "depends_on: nested": graph({"id": "a", "type": "noop", "depends_on": [["a"]]}),
    "annotations: number": graph({"id": "a", "type": "noop", "annotations": {"k": 1}}),
}


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
async def test_invalid_json_is_refused_and_nothing_is_stored(service: Service, body: bytes) -> None:
    before = service.rows()
    response = await service.client.post("/tasks", content=body)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer.keys() == {"error"}
    assert answer["error"].startswith("invalid JSON: ")
    assert len(answer["error"]) <= 200
    assert service.rows() == before


LONG = "x" * 201
WRONG_GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "no tasks": ({}, "task graph is empty"),
    "tasks null": ({"tasks": None}, "task graph is empty"),
    "tasks empty": ({"tasks": []}, "task graph is empty"),
    "no id": ({"tasks": [{"type": "noop"}]}, "task id is required"),
    "id null": ({"tasks": [{"id": None, "type": "noop"}]}, "task id is required"),
    "blank id": ({"tasks": [{"id": "  ", "type": "noop"}]}, "task id is required"),
    "no type": ({"tasks": [{"id": "a"}]}, 'task "a": type is required'),
    "NUL in an id": ({"tasks": [{"id": "a\0", "type": "noop"}]}, "task id 'a\\x00' contains"),
    "line break in an id": ({"tasks": [{"id": "a\r\nb", "type": "noop"}]}, "task id 'a\\r\\nb' contains"),
    "long id": ({"tasks": [{"id": LONG, "type": "noop"}]}, "task id has 201 characters"),
    "unknown type": (
        {"tasks": [{"id": "a", "type": "badtype"}]},
        "unknown task type: badtype (available: cli-skills, mcp, os)",
    ),
    "type in the wrong case": ({"tasks": [{"id": "a", "type": "NOOP"}]}, "unknown task type: NOOP"),
    "NUL in a type": ({"tasks": [{"id": "a", "type": "no\0op"}]}, "unknown task type: no\0op"),
    "runtime is not installed": ({"tasks": [{"id": "a", "type": "runtime"}]}, "unknown task type: runtime"),
    "unknown dependency": (
        {"tasks": [{"id": "a", "type": "noop", "depends_on": ["z"]}]},
        'task "a" depends on unknown task "z"',
    ),
    "itself": (
        {"tasks": [{"id": "a", "type": "noop", "depends_on": ["a"]}]},
        'task "a" cannot depend on itself',
    ),
    "cycle comes before the type": (
        {
            "tasks": [
                {"id": "a", "type": "badtype", "depends_on": ["b"]},
                {"id": "b", "type": "noop", "depends_on": ["a"]},
            ]
        },
        "cycle detected in task graph",
    ),
}


@pytest.mark.parametrize(("document", "error"), WRONG_GRAPHS.values(), ids=WRONG_GRAPHS.keys())
async def test_wrong_graph_is_refused_in_the_contracts_words(
    service: Service, document: dict[str, Any], error: str
) -> None:
    before = service.rows()
    response = await service.client.post("/tasks", json=document)
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)
    assert service.rows() == before


async def test_large_cycle_is_refused(service: Service) -> None:
    count = 10_000
    tasks = [{"id": f"t{i}", "type": "noop", "depends_on": [f"t{(i + 1) % count}"]} for i in range(count)]
    response = await service.submit(*tasks)
    assert response.status_code == 400
    assert response.json() == {"error": "cycle detected in task graph"}
    assert service.rows()["task"] == 0


async def test_echoed_text_is_cut(service: Service) -> None:
    response = await service.submit({"id": "a", "type": "t" * 100_000})
    assert response.status_code == 400
    assert len(response.text) < 1000
    response = await service.submit({"id": "a", "type": "noop", "depends_on": ["d" * 100_000]})
    assert response.status_code == 400
    assert len(response.text) < 1000


async def test_params_beyond_the_limit_are_refused(service: Service) -> None:
    fits = {"id": "a", "type": "noop", "params": {"message": "x" * (256 * 1024 - 20)}}
    assert (await service.submit(fits)).status_code == 202
    response = await service.submit({**fits, "params": {"message": "x" * (256 * 1024)}})
    assert response.status_code == 400
    assert response.json() == {"error": 'task "a": params is larger than the limit of 262144 bytes'}


async def test_depth_64_is_stored_and_given_back(service: Service) -> None:
    params = json.loads("[" * 64 + "]" * 64)
    assert (await service.submit({"id": "deep", "type": "noop", "params": params})).status_code == 202
    assert (await service.client.get("/tasks/deep")).json()["params"] == params


async def test_of_repeated_keys_the_last_counts(service: Service) -> None:
    body = b'{"tasks":[],"tasks":[{"id":"x","id":"a","type":"noop","params":{"k":1,"k":2}}]}'
    response = await service.client.post("/tasks", content=body)
    assert response.json() == {"accepted": 1, "task_ids": ["a"]}
    assert (await service.client.get("/tasks/a")).json()["params"] == {"k": 2}


async def test_unknown_keys_are_ignored_and_not_stored(service: Service) -> None:
    task = {
        "id": "a",
        "type": "noop",
        "status": "success",
        "result": 1,
        "error": "x",
        "retires": 3,
        "__proto__": {},
    }
    assert (await service.submit(task)).status_code == 202
    answer = (await service.client.get("/tasks/a")).json()
    assert answer["status"] == "pending"
    assert not {"result", "error", "retires", "retry", "__proto__"} & answer.keys()


async def test_body_beyond_the_limit_is_refused_before_it_is_read(database: Database, tmp_path: Any) -> None:
    async with Service.of(database, tmp_path, submit_body_bytes=1000, body_bytes=100) as service:
        for path, limit in (("/tasks", 1000), ("/mcp/call", 100)):
            declared = await service.client.post(path, content=b"x" * (limit + 1))
            assert declared.status_code == 413
            assert declared.json() == {"error": f"request body is larger than the limit of {limit} bytes"}

            async def endless() -> Any:
                for _ in range(10_000):
                    yield b" " * 50

            streamed = await service.client.post(path, content=endless())
            assert streamed.status_code == 413
            assert streamed.json() == declared.json()
        native = await service.client.post("/api/v1/runs", content=b"x" * 1001)
        assert native.status_code == 413
        assert native.headers["content-type"] == "application/problem+json"
        assert service.rows()["run"] == 0


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
async def test_any_content_type_is_read_as_json(service: Service, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = graph({"id": "a", "type": "noop"})
    assert (await service.client.post("/tasks", content=body, headers=headers)).status_code == 202


@pytest.mark.parametrize("header", ["content-encoding", "transfer-encoding"])
async def test_compressed_body_is_refused(service: Service, header: str) -> None:
    response = await service.client.post("/tasks", content=b"\x1f\x8b", headers={header: "gzip, chunked"})
    assert response.status_code == 415


@pytest.mark.parametrize("path", ["/tasks", "/api/v1/runs"])
async def test_two_idempotency_keys_are_refused(service: Service, path: str) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    body = graph({"id": "a", "type": "noop"})
    assert (await service.client.post(path, content=body, headers=headers)).status_code == 400
    assert service.rows()["run"] == 0


async def test_annotations_have_a_limit_too(service: Service) -> None:
    for more in ({"annotations": {"a": "x" * (256 * 1024)}}, {"type": "os", "tool_name": "x" * (256 * 1024)}):
        response = await service.submit({"id": "a", "type": "noop", **more})
        assert response.status_code == 400
        assert "larger than the limit" in response.json()["error"]


async def test_longest_timeout_and_most_retries_are_stored(service: Service) -> None:
    most = 2**63 - 1
    assert (await service.submit({"id": "a", "type": "noop", "timeout": most, "retry": most})).is_success
    assert (await service.client.post("/mcp/call", json={"timeout": most})).is_success
    answer = (await service.client.get("/tasks/a")).json()
    assert (answer["timeout"], answer["retry"]) == (most, most)


async def test_graph_beyond_the_limit_is_too_large(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.model.graph.MAX_TASKS", 1)
    contract = await service.submit({"id": "a", "type": "noop"}, {"id": "b", "type": "noop"})
    assert contract.status_code == 413
    assert contract.json() == {"error": "task graph has 2 tasks, the limit is 1"}
    tasks = [{"name": "a", "kind": "noop"}, {"name": "b", "kind": "noop"}]
    assert (await service.client.post("/api/v1/runs", json={"tasks": tasks})).status_code == 413
    assert service.rows()["run"] == 0


@pytest.mark.parametrize(
    ("body", "pointer", "message"),
    [
        (None, "", "must be an object"),
        ({"tasks": [{"name": "a", "kind": "noop", "priority": "HIGH"}]}, "/tasks/0/priority", ""),
        ({"tasks": [{"name": "a", "kind": "noop", "retry": []}]}, "/tasks/0/retry", "must be an object"),
        (
            {"tasks": [{"name": "a", "kind": "noop", "available_at": "1700000000"}]},
            "/tasks/0/available_at",
            "must be a time as text, such as 2026-01-31T12:00:00Z",
        ),
    ],
)
async def test_errors_point_into_the_body(service: Service, body: Any, pointer: str, message: str) -> None:
    response = await service.client.post("/api/v1/runs", content=json.dumps(body))
    assert response.status_code == 422
    errors = response.json()["errors"]
    assert {error["pointer"] for error in errors} == {pointer}
    assert message in ("", errors[0]["message"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/tasks", "GET, HEAD, OPTIONS, POST"),
        ("/tasks/a%2Fb", "DELETE, GET, HEAD, OPTIONS"),
        ("/mcp/call", "OPTIONS, POST"),
        ("/api/v1/runs/1/cancel", "OPTIONS, POST"),
        ("/schema", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_method_names_the_right_ones(service: Service, path: str, methods: str) -> None:
    refused = await service.client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    asked = await service.client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b"")
    assert (await service.client.options("/nothing")).status_code == 404


@pytest.mark.parametrize("path", ["/tasks", "/api/v1/runs", "/adapters/actions"])
async def test_large_graph_keeps_the_collector_quiet(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Its passes over all the new objects were what other requests waited for."""
    usual, during = gc.get_threshold(), []
    submit = submits.submit

    async def watched(*args: Any, **more: Any) -> Any:
        during.append(gc.get_threshold()[0])
        return await submit(*args, **more)

    monkeypatch.setattr(submits, "submit", watched)
    small = {
        "/tasks": {"tasks": [{"id": "a", "type": "noop"}]},
        "/api/v1/runs": {"tasks": [{"name": "a", "kind": "noop"}]},
        "/adapters/actions": {"action": {"kind": "noop"}},
    }[path]
    for padding in (0, 1024 * 1024):
        body = json.dumps(small).encode() + b" " * padding
        assert (await service.client.post(path, content=body)).status_code == 202
        assert gc.get_threshold() == usual
    assert during[0] == usual[0] < during[1]


PATHS = [
    "/tasks/%00",
    "/tasks/%ff",
    "/tasks/%c0%af",
    "/tasks/a%0d%0ab",
    "/tasks/' OR 1=1--",
    "/tasks/" + "x" * 5000,
    "/tasks/..%2f..%2fetc",
    "/tasks/%252f",
    "/tasks/a/b",
    "/tasks/",
    "http://localhost:8080//tasks",  # without its start httpx takes `tasks` for a host
    "/TASKS",
    "/tasks;x",
    "/mcp/tasks/%00",
    "/mcp/tasks/mcp-0",
    "/mcp/tasks/mcp-0999999999999999999",
    "/mcp/tasks/mcp-1795228420702261606",
    "/api/v1/runs/0x1",
    "/api/v1/runs/-1",
    "/api/v1/runs/1.0",
    "/api/v1/runs/9223372036854775808",
    "/api/v1/runs/" + "9" * 5000,
    "/api/v1/runs/%D9%A1",
    "/api/v1/runs/1/tasks/%00",
    "/api/v1/runs/1/nothing",
    "/api/v2/runs",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
async def test_odd_paths_are_not_found(service: Service, path: str) -> None:
    for method in ("GET", "HEAD"):
        response = await service.client.request(method, path)
        assert response.status_code == 404
        assert response.headers["x-trace-id"]


QUERIES = [
    "/tasks?limit=0",
    "/tasks?limit=-1",
    "/tasks?limit=abc",
    "/tasks?limit=",
    "/tasks?limit=1.5",
    "/tasks?offset=-1",
    "/tasks?run_id=99999999999999999999",
    "/tasks?status=done",
    "/api/v1/runs?limit=0",
    "/api/v1/runs?limit=501",
    "/api/v1/runs?limit=1000000000",
    "/api/v1/runs?before=-1",
    "/api/v1/runs?before=9223372036854775808",
    "/api/v1/runs?state=done",
    "/api/v1/runs?name=%00",
    "/api/v1/runs/1?include=everything",
    "/api/v1/runs/1/tasks?state=done",
    "/api/v1/runs/1/events?after=-1",
    "/api/v1/runs/1/events?after=2147483648",
    "/api/v1/runs/1/events?wait=1000",
    "/api/v1/runs/1/events?wait=nan",
    "/api/v1/runs/1/logs?task=%00",
    "/api/v1/runs?state=",
    "/api/v1/workers?live=perhaps",
    "/api/v1/runs?limit=1e2",
    "/api/v1/runs?limit=5.0",
    "/api/v1/runs?before=%2B5",
    "/api/v1/runs/1/events?after=0x1",
]


@pytest.mark.parametrize("query", QUERIES)
async def test_bad_query_is_refused(service: Service, query: str) -> None:
    await service.submit({"id": "a", "type": "noop"})
    [run] = await runs.list_runs(service.database)
    response = await service.client.get(query.replace("/runs/1/", f"/runs/{run.id}/"))
    assert response.status_code == (400 if query.startswith("/tasks") else 422), response.text
    body = response.json()
    pointer = "?" + query.partition("?")[2].partition("=")[0]
    if query.startswith("/tasks"):
        assert body.keys() == {"error"}
    else:
        assert [error["pointer"] for error in body["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("/tasks?limit=abc", '"abc" is not a whole number from 1 to 10000'),
        ("/tasks?limit=", '"" is not a whole number from 1 to 10000'),
        ("/tasks?limit=1e2", '"1e2" is not a whole number from 1 to 10000'),
        ("/api/v1/runs?limit=1e2", '"1e2" is not a whole number from 1 to 500'),
        ("/api/v1/runs?limit=2&limit=501", '"501" is not a whole number from 1 to 500'),
        (f"/api/v1/runs?limit={'9' * 5000}", f'"{"9" * 59}…" is not a whole number from 1 to 500'),
        (
            "/api/v1/runs?state=done",
            '"done" is not one of pending, running, paused, succeeded, failed, cancelled',
        ),
        ("/api/v1/runs/1/events?wait=nan", '"nan" is not a number from 0 to 25'),
        ("/api/v1/runs/1?include=everything", '"everything" is not made of tasks and edges'),
        ("/api/v1/workers?live=%ff", '"\ufffd" is not true or false'),
    ],
)
async def test_bad_query_is_told_what_was_given_and_what_is_accepted(
    service: Service, query: str, message: str
) -> None:
    body = (await service.client.get(query)).json()
    pointer = "?" + query.partition("?")[2].partition("=")[0]
    if query.startswith("/tasks"):
        assert body == {"error": f"{pointer}: {message}"}
    else:
        assert body["type"] == "/problems/invalid_parameter"
        assert body["errors"] == [{"pointer": pointer, "message": message}]
        assert body["detail"] == f"{pointer}: {message}"


async def test_all_bad_parameters_of_a_query_are_named(service: Service) -> None:
    body = (await service.client.get("/api/v1/runs?before=x&limit=y&state=z")).json()
    assert {error["pointer"] for error in body["errors"]} == {"?before", "?limit", "?state"}


@pytest.mark.parametrize("value", ["%00", "%ff", "' OR 1=1--", "%25", "_", "\\"])
async def test_odd_filter_values_match_nothing(service: Service, value: str) -> None:
    await service.submit({"id": "a", "type": "noop"})
    response = await service.client.get(f"/tasks?type={value}")
    assert (response.status_code, response.json()) == (200, [])
