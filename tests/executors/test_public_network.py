"""http and tcp tasks that the operator keeps out of the private network."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from engine.executors import http, network
from engine.executors.base import ExecutorSettings
from engine.executors.http import HttpExecutor
from engine.executors.network import is_public
from engine.executors.tcp import TcpExecutor
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors.factories import make_context, make_settings
from tests.executors.servers import Answer, HttpServer, TcpServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> ExecutorSettings:
    return make_settings(tmp_path, allow_private_network=False)


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing public can be reached here: the one address of the test servers passes for it."""
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.1")


async def get(settings: ExecutorSettings, url: str) -> Outcome:
    return await HttpExecutor(settings).execute(make_context(), {"url": url})


def refusal(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed)
    assert "is not a public address" in outcome.message and "allow_private_network" in outcome.message
    return outcome.message


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "223.255.255.255", "2606:4700::1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
        ),
        *("172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.19.0.1", "224.0.0.1"),
        *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a9fe:a9fe"),
        *("2001::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "ff02::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]"],
)
async def test_no_spelling_of_a_private_address_is_called(
    settings: ExecutorSettings, http_server: HttpServer, host: str
) -> None:
    refusal(await get(settings, f"http://{host}:{http_server.port}/hello"))
    assert http_server.accepted == 0


async def test_a_redirect_into_the_private_network_is_not_followed(
    settings: ExecutorSettings, http_server: HttpServer, loopback_is_public: None
) -> None:
    inward = f"http://127.0.0.2:{http_server.port}/hello"
    http_server.routes["/inward"] = lambda _: Answer(302, headers={"Location": inward})
    assert "127.0.0.2" in refusal(await get(settings, f"{http_server.url}/inward"))
    assert http_server.accepted == 1


async def test_a_public_name_is_called_under_its_name(
    settings: ExecutorSettings, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def addresses(host: str, port: int) -> list[str]:
        assert host == "site.test"
        return ["127.0.0.1"]

    monkeypatch.setattr(network, "public_addresses", addresses)
    outcome = await get(settings, f"http://site.test:{http_server.port}/moved")
    assert isinstance(outcome, Succeeded) and outcome.result["body"] == "grüße"
    assert {request.headers["host"] for request in http_server.requests} == {f"site.test:{http_server.port}"}


async def test_the_certificate_must_be_for_the_name(
    settings: ExecutorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=site.test"
    names = [
        "-addext",
        "subjectAltName=DNS:site.test",
        "-keyout",
        tmp_path / "key",
        "-out",
        tmp_path / "cert",
    ]
    subprocess.run([openssl, *request.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    monkeypatch.setattr(http, "_tls", lambda: trusting)

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(network, "public_addresses", addresses)
    async with HttpServer(tls) as server:
        assert isinstance(await get(settings, f"https://site.test:{server.port}/hello"), Succeeded)
        outcome = await get(settings, f"https://other.test:{server.port}/hello")
        assert isinstance(outcome, Failed) and "certificate verify failed" in outcome.message


async def test_the_next_address_is_tried(
    settings: ExecutorSettings, http_server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]  # the server listens on the second only

    monkeypatch.setattr(network, "public_addresses", addresses)
    assert isinstance(await get(settings, f"http://site.test:{http_server.port}/hello"), Succeeded)


async def test_tcp_keeps_out_too(settings: ExecutorSettings, tcp_server: TcpServer) -> None:
    params = {"address": f"localhost:{tcp_server.port}"}
    refusal(await TcpExecutor(settings).execute(make_context(), params))
    assert tcp_server.accepted == 0


async def test_tcp_reaches_public_addresses(
    settings: ExecutorSettings, tcp_server: TcpServer, loopback_is_public: None
) -> None:
    params = {"address": tcp_server.address}
    assert isinstance(await TcpExecutor(settings).execute(make_context(), params), Succeeded)
