"""The seed documents' examples give the answers that the documents show."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.api.service import Service

pytestmark = pytest.mark.anyio
EXAMPLES = sorted(Path(__file__).parent.glob("*.json"))
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)")
_PLACEHOLDERS = {
    "<time>": _TIME,
    "<uptime>": re.compile(r"(\d+h)?(\d+m)?\d+s"),
    "<handle>": re.compile(r"mcp-\d+"),
    "<trace>": re.compile(r"[0-9a-f]{16}"),
}


@pytest.fixture
def origin() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"slideshow": {"title": "Sample Slide Show"}}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_example_gives_the_recorded_answer(service: Service, origin: str, path: Path) -> None:
    seen = {"{origin}": origin}
    async with service.working(concurrency=4):
        for step in json.loads(path.read_text())["steps"]:
            await _replay(service, step, seen)


async def _replay(service: Service, step: dict[str, Any], seen: dict[str, str]) -> None:
    request, expected = step["request"], step["response"]
    target, body = request["path"], request.get("body")
    if "json" in request:
        body = json.dumps(request["json"])
    for placeholder, value in seen.items():
        target = target.replace(placeholder, value)
        body = body and body.replace(placeholder, value)
    if "until" in step:
        with anyio.fail_after(20):
            await service.poll(target, step["until"]["values"], step["until"]["key"])
    response = await service.client.request(request["method"], target, content=body)
    assert response.status_code == expected["status"], response.text
    for name, value in expected.get("headers", {}).items():
        _match(value, response.headers[name], name)
    if "json" not in expected:
        assert response.content == b""
        return
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    _match(expected["json"], answer, "answer")
    if isinstance(answer, dict) and "handle_id" in answer:
        seen["{handle}"] = answer["handle_id"]


def _match(expected: Any, found: Any, where: str) -> None:
    """Every recorded key is there with its value; more keys may be."""
    match expected:
        case "<any>":
            return
        case str() if expected in _PLACEHOLDERS:
            assert _PLACEHOLDERS[expected].fullmatch(found), f"{where}: {found}"
        case dict():
            assert isinstance(found, dict), where
            for key, value in expected.items():
                assert key in found, f"{where}.{key} is missing in {found}"
                _match(value, found[key], f"{where}.{key}")
        case list():
            assert isinstance(found, list), where
            assert len(found) == len(expected), f"{where}: {found}"
            for index, value in enumerate(expected):
                _match(value, found[index], f"{where}[{index}]")
        case _:
            assert found == expected, where
