"""The REST client against servers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import Result

from engine.client.rest import Client, answers
from engine.errors import (
    AccessDenied,
    Conflict,
    EngineError,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    Overloaded,
    SchemaMismatch,
    ServerUnavailable,
    StoreUnavailable,
)

Answer = tuple[int, dict[str, str], bytes]
Call = Callable[..., Result]
Serve = Callable[..., "Stub"]
SECRET = "te_abc_hunter2"


class Stub(ThreadingHTTPServer):
    """Gives its answers in turn, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("authorization")))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:  # hang up without a word
            self.close_connection = True
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[tuple[Stub, threading.Thread]] = []

    def run(*answers: Answer | None) -> Stub:
        stub = Stub(*answers)
        thread = threading.Thread(target=stub.serve_forever, args=(0.01,))
        thread.start()
        started.append((stub, thread))
        return stub

    yield run
    for stub, thread in started:
        stub.shutdown()
        thread.join()
        stub.server_close()


def problem(status: int, detail: str = "because") -> Answer:
    return status, {"content-type": "application/problem+json"}, f'{{"detail": "{detail}"}}'.encode()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (problem(401), AccessDenied, "by ENGINE_TOKEN or --token, in Python as `Client(url, token)`"),
        (problem(403), AccessDenied, "because"),
        (problem(404), NotFound, "because"),
        (problem(409), Conflict, "because"),
        (problem(413), InvalidInput, "because"),
        (problem(422), InvalidInput, "because"),
        (problem(503), Overloaded, "because"),
        ((503, {"x-error-code": "store_unavailable"}, b'{"error": "away"}'), StoreUnavailable, "away"),
        ((503, {"x-error-code": "schema_mismatch"}, b'{"error": "old"}'), SchemaMismatch, "old"),
        (problem(500), ServerUnavailable, "500: because"),
        ((400, {}, b'{"error": "invalid JSON: x"}'), InvalidInput, "invalid JSON: x"),
        ((404, {}, b'{"code": 404, "message": "workflow not found: x"}'), NotFound, "workflow not found: x"),
        ((422, {}, b'{"code": 422, "message": "another"}'), IdempotencyMismatch, "another"),
        (
            (422, {}, b'{"type": "/problems/idempotency_mismatch", "detail": "another"}'),
            IdempotencyMismatch,
            "another",
        ),
        ((404, {}, b""), NotFound, "HTTP 404"),
        ((502, {}, b"<html>Bad gateway</html>"), ServerUnavailable, "answered 502 and no JSON"),
        ((200, {}, b"<html>Welcome</html>"), ServerUnavailable, "answered 200 and no JSON"),
        ((200, {}, b'{"run": {"id": "x"}}'), ServerUnavailable, "not as expected"),
        ((200, {}, b"[1]"), ServerUnavailable, "not as expected"),
        ((200, {}, b"\xff\xfe"), ServerUnavailable, "no JSON"),
        (None, ServerUnavailable, "the connection to"),
    ],
)
def test_every_refusal_becomes_an_error_of_ours(
    serve: Serve, answer: Answer | None, error: type[EngineError], text: str
) -> None:
    with Client(serve(answer).url, SECRET) as client, pytest.raises(error) as caught:
        client.run(1)
    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"), [("\ud800", "text contains a lone surrogate"), (float("inf"), "cannot be written")]
)
def test_what_json_has_no_word_for_is_not_sent(serve: Serve, value: Any, text: str) -> None:
    server = serve((200, {}, b"{}"))
    with Client(server.url) as client, pytest.raises(InvalidInput, match=text):
        client.execute("orders", {"value": value})
    assert server.asked == []


def test_a_database_that_is_away_behind_a_server_is_told_by_the_exit_code(serve: Serve, call: Call) -> None:
    away = serve((503, {"x-error-code": "store_unavailable"}, b'{"code": 503, "message": "away"}'))
    result = call("instance", "list", "--server", away.url)
    assert (result.exit_code, result.stderr) == (3, "error: away\n")
    busy = serve((503, {}, b'{"code": 503, "message": "busy"}'))
    assert call("instance", "list", "--server", busy.url).exit_code == 1


def test_a_token_does_not_follow_a_redirect(serve: Serve) -> None:
    elsewhere = serve((200, {}, b"{}"))
    here = serve((307, {"location": f"{elsewhere.url}/health"}, b""))
    with (
        Client(here.url, SECRET) as client,
        pytest.raises(ServerUnavailable, match="no redirect is followed"),
    ):
        client.health()
    assert here.asked == [("GET", "/health", f"Bearer {SECRET}")]
    assert elsewhere.asked == []


def test_a_proxy_of_the_environment_never_sees_requests_to_our_own_machine(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve((200, {}, b"{}"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    server = serve((200, {}, b'{"status": "ok"}'))
    with Client(server.url, SECRET) as client:
        assert client.health() == {"status": "ok"}
    assert proxy.asked == []


def test_a_lost_answer_to_a_submit_says_how_to_ask_again(serve: Serve, call: Call) -> None:
    graph = '{"tasks": [{"name": "a", "kind": "noop"}]}'
    flags = ("--server", serve(None).url, "--idempotency-key", "k1")
    result = call("task", "submit", "-", *flags, text=graph)
    assert result.exit_code == 4
    assert "whether the graph was accepted is not known: repeat with --idempotency-key k1" in result.stderr


@pytest.mark.parametrize(
    "answer", [None, (200, {}, b"hello"), (200, {}, b'{"status": "ok"}'), (404, {}, b"")]
)
def test_other_programs_are_not_taken_for_ours(serve: Serve, answer: Answer | None) -> None:
    assert not answers(serve(answer).url)


@pytest.mark.parametrize("token", ["a b\n", "tökén", "a\nX-Evil: 1"])
def test_a_token_that_cannot_be_one_is_refused(
    call: Call, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("ENGINE_TOKEN", token)
    result = call("runs", "list", "--server", "http://127.0.0.1:1")
    assert result.exit_code in (2, 4)
    assert token.strip() not in result.output


# --- waiting


def document(body: dict[str, Any]) -> Answer:
    return 200, {}, json.dumps(body).encode()


def run_in(state: str) -> Answer:
    counts = dict.fromkeys(("total", "open", "running", "succeeded", "failed", "skipped", "cancelled"), 0)
    times = {"created_at": NOW, "started_at": None, "finished_at": None}
    run: dict[str, Any] = {
        "id": 7,
        "state": state,
        "name": None,
        "labels": {},
        "is_cancelling": False,
        "events": 1,
        **times,
    }
    return document({"run": {**run, "progress": counts}})


def task_in(status: str) -> Answer:
    return document({"id": "a", "type": "noop", "status": status, "created_at": NOW, "updated_at": NOW})


NOW = "2026-01-31T12:00:00Z"
NO_WORKERS = document({"workers": []})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def test_a_wait_ends_with_the_run(serve: Serve, pauses: list[float]) -> None:
    server = serve(run_in("pending"), *[run_in("running")] * 20, run_in("failed"))
    with Client(server.url) as client:
        assert client.wait(7).state == "failed"
    assert pauses == sorted(pauses) and max(pauses) <= 0.5


def test_a_wait_that_took_too_long_says_the_state(serve: Serve) -> None:
    with (
        Client(serve(run_in("paused")).url) as client,
        pytest.raises(TimeoutError, match=r"^run 7 has not ended after 0.01 seconds; its state is paused$"),
    ):
        client.wait(7, timeout=0.01)


def test_a_wait_for_tasks_outlives_a_restart(serve: Serve, call: Call, pauses: list[float]) -> None:
    server = serve(NO_WORKERS, task_in("running"), None, problem(503), task_in("success"))
    result = call("task", "wait", "a", "--server", server.url)
    assert result.exit_code == 0
    assert result.stderr.count("trying again for 36 s") == 1


def test_a_wait_for_a_run_outlives_a_restart(serve: Serve, call: Call, pauses: list[float]) -> None:
    accepted = document({"run_id": 7, "task_ids": {"a": 1}, "is_repeat": False})
    server = serve(accepted, NO_WORKERS, run_in("running"), None, problem(503), run_in("succeeded"))
    graph = '{"tasks": [{"name": "a", "kind": "noop"}]}'
    result = call("task", "submit", "-", "--wait", "--server", server.url, text=graph)
    assert result.exit_code == 0
    assert result.stderr.count("trying again for 36 s") == 1


def test_a_time_limit_counts_while_the_server_is_away(serve: Serve, call: Call) -> None:
    server = serve(NO_WORKERS, None)
    result = call("task", "wait", "a", "--timeout", "10ms", "--server", server.url)
    assert result.exit_code == 124
    assert result.stderr.endswith("error: timed out after 10ms, not ended: a\n")


def test_a_wait_for_a_server_that_is_not_there_ends_at_once(call: Call, pauses: list[float]) -> None:
    assert call("task", "wait", "a", "--server", "http://127.0.0.1:1").exit_code == 4
    assert pauses == []


def test_a_definition_that_is_no_yaml_is_not_ours(serve: Serve) -> None:
    stub = serve((200, {"content-type": "text/html"}, b"<p>"), problem(404, "workflow not found: x"))
    with Client(stub.url) as client:
        with pytest.raises(ServerUnavailable, match="answered without application/yaml"):
            client.workflow_definition("x")
        with pytest.raises(NotFound, match="workflow not found: x"):
            client.workflow_definition("x", 3)
    assert [path for _, path, _ in stub.asked] == [
        "/api/v1/workflows/x/definition",
        "/api/v1/workflows/x/definition?version=3",
    ]
