"""http, against a server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import ssl
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.executors.base import ExecutorSettings
from engine.executors.http import HttpExecutor, _body
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors.factories import make_context, make_settings
from tests.executors.servers import Answer, HttpServer

pytestmark = pytest.mark.anyio


async def send(settings: ExecutorSettings, url: str, **params: Any) -> Outcome:
    return await HttpExecutor(settings).execute(make_context(task_id=42), {"url": url, **params})


async def sent(settings: ExecutorSettings, url: str, **params: Any) -> Any:
    outcome = await send(settings, url, **params)
    assert isinstance(outcome, Succeeded), outcome
    return outcome.result


async def fails(settings: ExecutorSettings, url: str, **params: Any) -> str:
    outcome = await send(settings, url, **params)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.code, outcome.source) == ("external_failure", "executor")
    return outcome.message


async def test_a_get_returns_status_body_and_headers(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    result = await sent(settings, f"{http_server.url}/hello")
    assert (result["status_code"], result["body"]) == (200, "grüße")
    assert result["headers"]["x-kind"] == "test"
    assert http_server.requests[0].method == "GET"


async def test_an_error_status_is_a_success_of_the_task(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    result = await sent(settings, f"{http_server.url}/missing")
    assert (result["status_code"], result["body"]) == (404, "no")


async def test_a_text_body_is_sent_as_it_is(settings: ExecutorSettings, http_server: HttpServer) -> None:
    await sent(settings, f"{http_server.url}/hello", method="post", body="grüße", headers={"X-A": " b "})
    request = http_server.requests[0]
    assert (request.method, request.body.decode(), request.headers["x-a"]) == ("POST", "grüße", "b")
    assert "content-type" not in request.headers


@pytest.mark.parametrize("body", [{"a": "ü"}, [1, None], 5, False, {}])
async def test_any_other_body_is_sent_as_json(
    settings: ExecutorSettings, http_server: HttpServer, body: Any
) -> None:
    await sent(settings, f"{http_server.url}/hello", method="PUT", body=body)
    await sent(settings, f"{http_server.url}/hello", body=body, headers={"content-type": "text/x"})
    first, second = http_server.requests
    assert json.loads(first.body) == body
    assert first.headers["content-type"] == "application/json"
    assert second.headers["content-type"] == "text/x"


async def test_the_idempotency_key_is_that_of_the_task(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    await sent(settings, f"{http_server.url}/hello", method="POST")
    await sent(settings, f"{http_server.url}/hello", headers={"idempotency-KEY": "mine"})
    assert [request.headers["idempotency-key"] for request in http_server.requests] == ["task-42", "mine"]


async def test_headers_that_belong_to_the_connection_are_left_out(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    headers = {"Content-Length": "999", "Transfer-Encoding": "chunked", "Host": "evil", "Connection": "x"}
    await sent(settings, f"{http_server.url}/hello", method="POST", body="abc", headers=headers)
    request = http_server.requests[0]
    assert request.body == b"abc"
    assert request.headers["host"] == http_server.address


async def test_nothing_of_the_workers_environment_is_used(
    settings: ExecutorSettings, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await sent(settings, f"{http_server.url}/hello")
    assert "authorization" not in http_server.requests[0].headers


async def test_redirects_are_followed(settings: ExecutorSettings, http_server: HttpServer) -> None:
    assert (await sent(settings, f"{http_server.url}/moved"))["body"] == "grüße"


async def test_ten_redirects_are_enough(settings: ExecutorSettings, http_server: HttpServer) -> None:
    for step in range(10):
        location = f"/step{step + 1}" if step < 9 else "/hello"
        http_server.routes[f"/step{step}"] = lambda _, to=location: Answer(302, headers={"Location": to})
    assert (await sent(settings, f"{http_server.url}/step0"))["status_code"] == 200
    message = await fails(settings, f"{http_server.url}/loop")
    assert message.startswith("http request failed: ")
    assert "redirects" in message


async def test_a_redirect_to_another_scheme_is_refused(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    assert (await fails(settings, f"{http_server.url}/away")).startswith("http request failed: ")


async def test_the_body_of_a_redirect_is_not_read(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    http_server.routes["/flood"] = lambda _: Answer(302, headers={"Location": "/hello"}, is_endless=True)
    assert (await asyncio.wait_for(sent(settings, f"{http_server.url}/flood"), 20))["body"] == "grüße"
    await asyncio.wait_for(http_server.hung_up.wait(), 20)


@pytest.mark.parametrize("charset", ["punycode", "PunyCode", "idna"])
async def test_a_charset_whose_decoding_would_take_for_ever_is_not_used(
    settings: ExecutorSettings, http_server: HttpServer, charset: str
) -> None:
    headers = {"Content-Type": f"text/plain; charset={charset}"}
    http_server.routes["/slow"] = lambda _: Answer(body=b"a-99", headers=headers)
    assert (await sent(settings, f"{http_server.url}/slow"))["body"] == "a-99"


async def test_an_endless_body_is_cut_and_the_connection_closed(
    tmp_path: Path, http_server: HttpServer
) -> None:
    settings = make_settings(tmp_path, http_body_bytes=100_000)
    assert (await sent(settings, f"{http_server.url}/endless"))["body"] == "y" * 100_000
    await asyncio.wait_for(http_server.hung_up.wait(), 20)


async def test_a_compressed_bomb_is_cut_while_it_unfolds(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    result = await sent(settings, f"{http_server.url}/zip")
    assert result["body"] == "x" * settings.http_body_bytes
    assert settings.http_body_bytes == 1024 * 1024


async def test_a_compressed_bomb_never_stands_in_memory_whole() -> None:
    response = httpx.Response(
        200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(gzip.compress(b"x" * 50_000_000))
    )
    tracemalloc.start()
    try:
        assert await _body(response, 1000) == b"x" * 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    subprocess.run(
        [openssl, *request.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with HttpServer(tls) as server:
        message = await fails(settings, f"https://localhost:{server.port}/hello")
        assert "certificate verify failed" in message
        assert server.requests == []


async def test_broken_compression_is_a_read_error(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    assert (await fails(settings, f"{http_server.url}/broken-zip")).startswith("read response: ")


async def test_a_body_that_ends_early_is_a_read_error(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    http_server.routes["/short"] = lambda _: Answer(body=b"x", headers={"Transfer-Encoding": "chunked"})
    assert await fails(settings, f"{http_server.url}/short")


async def test_the_charset_of_the_answer_is_used(settings: ExecutorSettings, http_server: HttpServer) -> None:
    assert (await sent(settings, f"{http_server.url}/latin"))["body"] == "é"


async def test_a_body_that_is_no_text_can_be_stored(
    settings: ExecutorSettings, http_server: HttpServer
) -> None:
    assert (await sent(settings, f"{http_server.url}/strange"))["body"] == "\ufffd\ufffdok"


async def test_a_cancelled_request_hangs_up(settings: ExecutorSettings, http_server: HttpServer) -> None:
    big = make_settings(settings.file_root, http_body_bytes=10**15)
    http_server.routes["/slow"] = lambda _: Answer(is_endless=True, headers={"X": "y"})
    handle = asyncio.create_task(send(big, f"{http_server.url}/slow"))
    async with asyncio.timeout(20):
        while not http_server.requests:
            await asyncio.sleep(0)
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    await asyncio.wait_for(http_server.hung_up.wait(), 20)


async def test_a_closed_port_is_a_request_error(settings: ExecutorSettings) -> None:
    message = await fails(settings, "http://me:pass@127.0.0.1:1/x")
    assert message.startswith('http request failed: GET "http://127.0.0.1:1/x": ')


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "url is required"),
        ({"url": " "}, "url is required"),
        ({"url": "ftp://x/y"}, 'create request: unsupported protocol scheme "ftp" (accepted: http, https)'),
        (
            {"url": "file:///etc/passwd"},
            'create request: unsupported protocol scheme "file" (accepted: http, https)',
        ),
        ({"url": "x/y"}, 'create request: unsupported protocol scheme "" (accepted: http, https)'),
        ({"url": "http://"}, "create request: no host in request URL"),
        ({"url": "http://x", "method": "GET\r\nX: y"}, 'create request: invalid method "GET  X: y"'),
        ({"url": "http://x", "method": "G T"}, 'create request: invalid method "G T"'),
        ({"url": "http://x", "headers": {"a b": "c"}}, 'create request: invalid header name "a b"'),
        ({"url": "http://x", "headers": {"A:": "c"}}, 'create request: invalid header name "A:"'),
        ({"url": "http://x", "headers": {"": "c"}}, 'create request: invalid header name ""'),
        (
            {"url": "http://x", "headers": {"A": "b\r\nC: d"}},
            'create request: header "A" has a line break or another control character in its value',
        ),
    ],
)
async def test_what_cannot_be_sent_is_refused(settings: ExecutorSettings, params: Any, message: str) -> None:
    assert await HttpExecutor(settings).execute(make_context(), params) == Failed(message)


@pytest.mark.parametrize(
    "url",
    [
        "http://x:70000/",
        "http://x:80:80/",
        "http://[::1",
        "http://a\nb/",
        "http://a\0b/",
        "http://" + "a" * 300 + "/",
        "http://" + "a." * 70_000 + "/",
        "http://xn--\udc80/",
        "http://./",
        "http://127.0.0.1:0/",
    ],
)
async def test_strange_urls_fail_clearly(settings: ExecutorSettings, url: str) -> None:
    message = await fails(settings, url)
    assert message.startswith(("create request: ", "http request failed: "))
    assert len(message) < 600
    assert message.isprintable()
