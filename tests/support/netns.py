"""Network namespaces joined by a bridge, for tests that cut the network between processes. Linux, root.

The bridge stands in a namespace of its own, so the machine's own network is never touched. Unix sockets
are files and reach across: a test looks at a database in a namespace without being in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.support.folder import Folder

_PREFIX = "te"
_SUBNET = "10.213.0"
_numbers = iter(range(1, 1_000_000))
_lock = threading.Lock()


def available() -> str | None:
    """None if namespaces can be made here, otherwise the reason why not."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a feature of Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install {package}"
    try:
        with Network() as network:
            network.add("probe")
    except RuntimeError as error:
        return f"the kernel or the container refuses: {error}"
    return None


@dataclass(slots=True)
class Namespace:
    """One machine of the network."""

    name: str
    address: str
    network: Network = field(repr=False)
    port: str  # our end of the cable, on the bridge

    def command(self, *command: str) -> list[str]:
        """`command` as it has to be started to run in here."""
        return ["ip", "netns", "exec", self.name, *command]

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` in here; it is killed when the network closes."""
        return subprocess.Popen(self.command(*command), **options)

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        return subprocess.run(self.command(*command), **options)

    def cut(self) -> None:
        """Lose every packet to and from here, silently, as a switch without power does."""
        self.network.on_bridge("ip", "link", "set", self.port, "nomaster")

    def heal(self) -> None:
        self.network.on_bridge("ip", "link", "set", self.port, "master", "bridge")


class Network:
    """A bridge in a namespace of its own. Leaving the `with` block, and our end, remove everything."""

    def __init__(self) -> None:
        _remove_stale()
        with _lock:
            self._id = f"{_PREFIX}{os.getpid()}x{next(_numbers)}"
        self._folder = Folder("net")
        self._bridge = f"{self._id}bridge"
        self._namespaces: list[Namespace] = []
        try:
            self._make(self._bridge)
            self.on_bridge("ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
            self.on_bridge("ip", "link", "set", "bridge", "up")
            self.on_bridge("nft", "add table bridge loss; add chain bridge loss forward "
                           "{ type filter hook forward priority 0; }")  # fmt: skip
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str) -> Namespace:
        """A new machine, with an address that all others reach."""
        number = len(self._namespaces) + 1
        port = f"port{number}"
        added = Namespace(f"{self._id}{name}", f"{_SUBNET}.{number}", self, port)
        self._make(added.name)
        self.on_bridge("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", added.name)
        self.on_bridge("ip", "link", "set", port, "master", "bridge", "up")
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "address", "add", f"{added.address}/24", "dev", "eth0"),
            ("ip", "link", "set", "eth0", "up"),
        ):
            _run(*added.command(*command))
        self._namespaces.append(added)
        return added

    def lose(self, source: Namespace, target: Namespace) -> None:
        """Lose every packet from `source` to `target`; the other direction still works."""
        self.on_bridge("nft", f"add rule bridge loss forward ip saddr {source.address} "
                       f"ip daddr {target.address} drop")  # fmt: skip

    def heal(self) -> None:
        """Undo every `lose` and `cut`."""
        self.on_bridge("nft", "flush chain bridge loss forward")
        for namespace in self._namespaces:
            namespace.heal()

    def close(self) -> None:
        """Kill whatever runs in the namespaces and remove them."""
        self._folder.close()

    def on_bridge(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._bridge, *command)

    def _make(self, name: str) -> None:
        # Registered first: removing what was never made does no harm.
        self._folder.at_end("sh", "-c", _removal(name))
        _run("ip", "netns", "add", name)


def _removal(name: str) -> str:
    return f"ip netns pids {name} | xargs -r kill -9; ip netns del {name}"


def _remove_stale() -> None:
    """Remove namespaces of processes that ended together with their reaper."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        owner = name.removeprefix(_PREFIX).partition("x")[0]
        if name.startswith(_PREFIX) and owner.isdigit() and not psutil.pid_exists(int(owner)):
            subprocess.run(["sh", "-c", _removal(name)], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
