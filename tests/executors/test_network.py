"""dns, against a server on loopback, and tcp."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.executors.address import split_address
from engine.executors.base import ExecutorSettings
from engine.executors.dns import SERVER_VARIABLE, DnsExecutor
from engine.executors.tcp import TcpExecutor
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors.factories import make_context
from tests.executors.servers import DnsServer, TcpServer

pytestmark = pytest.mark.anyio

ZONE = {
    ("both.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("both.test.", "AAAA"): ["2001:db8::1"],
    ("six.test.", "AAAA"): ["2001:db8::6"],
    ("alias.test.", "CNAME"): ["both.test."],
    ("text.test.", "TXT"): ['"v=1 " "two"', '"\\255\\000x"'],
    ("_srv.under_score.test.", "A"): ["192.0.2.9"],
}


@pytest.fixture
async def dns_server(anyio_backend: str) -> AsyncIterator[DnsServer]:
    async with DnsServer(ZONE) as server:
        yield server


@pytest.fixture
def executor(settings: ExecutorSettings, dns_server: DnsServer, tmp_path: Path) -> DnsExecutor:
    (tmp_path / "hosts").write_text(
        "127.0.0.1 localhost\n# 9.9.9.9 gone\n10.0.0.7 Box box.lan # mine\n::7 box\n"
    )
    return DnsExecutor(settings, server=dns_server.address, hosts_file=tmp_path / "hosts")


async def look_up(executor: DnsExecutor, name: str, **params: Any) -> Outcome:
    return await executor.execute(make_context(), {"name": name, **params})


@pytest.mark.parametrize("record", [None, "", "ip", " IP "])
async def test_ip_gives_the_addresses_of_both_families(executor: DnsExecutor, record: str | None) -> None:
    addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    expected = {"name": "both.test", "record": "ip", "addrs": addresses}
    assert await look_up(executor, "both.test", record=record) == Succeeded(expected)


async def test_one_family_is_enough(executor: DnsExecutor) -> None:
    outcome = await look_up(executor, "six.test.")
    assert outcome == Succeeded({"name": "six.test.", "record": "ip", "addrs": ["2001:db8::6"]})


async def test_names_with_underscores_are_looked_up(executor: DnsExecutor) -> None:
    outcome = await look_up(executor, "_srv.under_score.test")
    assert isinstance(outcome, Succeeded)


async def test_txt_joins_the_parts_of_each_record(executor: DnsExecutor) -> None:
    outcome = await look_up(executor, "text.test", record="TXT")
    expected = {"name": "text.test", "record": "txt", "txt": ["v=1 two", "\ufffd\ufffdx"]}
    assert outcome == Succeeded(expected)


@pytest.mark.parametrize("name", ["alias.test", "both.test"])
async def test_cname_is_where_the_aliases_end(executor: DnsExecutor, name: str) -> None:
    outcome = await look_up(executor, name, record="cname")
    assert outcome == Succeeded({"name": name, "record": "cname", "cname": "both.test."})


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("localhost", ["127.0.0.1"]),
        ("LOCALHOST.", ["127.0.0.1"]),
        ("box", ["10.0.0.7", "::7"]),
        ("box.lan", ["10.0.0.7"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
    ],
)
async def test_some_names_need_no_server(executor: DnsExecutor, name: str, addresses: list[str]) -> None:
    assert await look_up(executor, name) == Succeeded({"name": name, "record": "ip", "addrs": addresses})


async def test_localhost_is_known_without_a_hosts_file(settings: ExecutorSettings, tmp_path: Path) -> None:
    executor = DnsExecutor(settings, server="127.0.0.1:1", hosts_file=tmp_path / "none")
    outcome = await look_up(executor, "localhost")
    assert outcome == Succeeded({"name": "localhost", "record": "ip", "addrs": ["127.0.0.1", "::1"]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "name is required"),
        ({"name": " "}, "name is required"),
        ({"name": "x", "record": "mx"}, 'record must be one of: ip, txt, cname (got "mx")'),
        ({"name": "none.test"}, "lookup host: lookup none.test: no such host"),
        ({"name": "gone"}, "lookup host: lookup gone: no such host"),
        ({"name": "text.test"}, "lookup host: lookup text.test: no such host"),
        ({"name": "none.test", "record": "txt"}, "lookup txt: lookup none.test: no such host"),
        ({"name": "both.test", "record": "txt"}, "lookup txt: lookup both.test: no such host"),
        ({"name": "none.test", "record": "cname"}, "lookup cname: lookup none.test: no such host"),
    ],
)
async def test_failures_are_in_the_contracts_words(executor: DnsExecutor, params: Any, message: str) -> None:
    assert await executor.execute(make_context(), params) == Failed(message)


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a." * 200, "a..b", "\udc80.test", "a\0b", "*.test"])
async def test_impossible_names_fail_clearly(executor: DnsExecutor, name: str) -> None:
    outcome = await look_up(executor, name)
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith("lookup host: lookup ")
    assert len(outcome.message) < 600


async def test_a_silent_server_costs_no_more_than_the_time_left(settings: ExecutorSettings) -> None:
    async with DnsServer({}, is_silent=True) as server:
        executor = DnsExecutor(settings, server=server.address)
        outcome = await executor.execute(make_context(seconds=0.2), {"name": "x.test"})
    assert outcome == Failed("lookup host: lookup x.test: i/o timeout")


async def test_the_server_can_come_from_the_environment(
    settings: ExecutorSettings, dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, dns_server.address)
    assert isinstance(await look_up(DnsExecutor(settings), "both.test"), Succeeded)


# --- tcp


async def dial(settings: ExecutorSettings, **params: Any) -> Outcome:
    return await TcpExecutor(settings).execute(make_context(), params)


async def test_tcp_connects_and_hangs_up(settings: ExecutorSettings, tcp_server: TcpServer) -> None:
    for address in (tcp_server.address, f"localhost:{tcp_server.port}", f":{tcp_server.port}"):
        assert await dial(settings, address=address) == Succeeded({"ok": True, "address": address})
    async with asyncio.timeout(20):
        while tcp_server.accepted < 3:
            await asyncio.sleep(0)


async def test_tcp_takes_ipv6_in_brackets(settings: ExecutorSettings) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback")
    with listener:
        address = f"[::1]:{listener.getsockname()[1]}"
        assert await dial(settings, address=address) == Succeeded({"ok": True, "address": address})


async def test_a_closed_port_is_refused(settings: ExecutorSettings) -> None:
    outcome = await dial(settings, address="127.0.0.1:1")
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith("tcp dial: dial tcp 127.0.0.1:1: ")
    assert "refused" in outcome.message.lower() or "connect call failed" in outcome.message


async def test_a_port_that_never_answers_times_out(settings: ExecutorSettings) -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):  # a full backlog: the kernel no longer answers
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        outcome = await dial(settings, address=address, timeout_ms=100)
    assert outcome == Failed(f"tcp dial: dial tcp {address}: i/o timeout")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "address is required (host:port)"),
        ({"address": " "}, "address is required (host:port)"),
        ({"address": "x:1", "timeout_ms": 60_001}, "timeout_ms exceeds max of 60000 ms"),
        ({"address": "host"}, "tcp dial: address host: missing port in address"),
        ({"address": "[::1]"}, "tcp dial: address [::1]: missing port in address"),
        ({"address": "::1:80"}, "tcp dial: address ::1:80: too many colons in address"),
        ({"address": "x:65536"}, "tcp dial: address x:65536: invalid port, accepted are 1 to 65535"),
        ({"address": "x:0"}, "tcp dial: address x:0: invalid port, accepted are 1 to 65535"),
        ({"address": "x:-1"}, "tcp dial: address x:-1: invalid port, accepted are 1 to 65535"),
        ({"address": "x:٣"}, "tcp dial: address x:٣: invalid port, accepted are 1 to 65535"),
        ({"address": "x:"}, "tcp dial: address x:: invalid port, accepted are 1 to 65535"),
        ({"address": "a b:1"}, "tcp dial: address a b:1: invalid host"),
        ({"address": "u@x:1"}, "tcp dial: address u@x:1: invalid host"),
    ],
)
async def test_bad_addresses_are_refused(settings: ExecutorSettings, params: Any, message: str) -> None:
    assert await TcpExecutor(settings).execute(make_context(), params) == Failed(message)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a" * 1000, "a..b", "xn--\udc80"])
async def test_impossible_hosts_fail_clearly(settings: ExecutorSettings, host: str) -> None:
    outcome = await dial(settings, address=f"{host}:80")
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith("tcp dial: ")


def test_addresses_are_split() -> None:
    assert split_address("[fe80::1%eth0]:53") == ("fe80::1%eth0", 53)
    assert split_address("example.org:443") == ("example.org", 443)
