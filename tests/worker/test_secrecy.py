"""What tasks can see of the process that runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.oracle import Look
from tests.chaos.rig import pool, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")

SECRET = "postgresql://me:hunter2@host/name"
# Hides, and says what a process that it starts, as a task would be, finds out about it.
PARENT = """
import subprocess, sys
from engine.worker.secrecy import hide_secrets
hide_secrets([sys.argv[1]])
child = '''
import json, os
found = {}
for name in ("environ", "cmdline", "mem"):
    try:
        with open(f"/proc/{os.getppid()}/{name}", "rb") as file:
            found[name] = "" if name == "mem" else file.read().decode()
    except PermissionError:
        found[name] = None
found["inherited"] = dict(os.environ)
print(json.dumps(found))
'''
subprocess.run([sys.executable, "-c", child], check=True)
"""
# Starts its arguments without CAP_SYS_PTRACE, SYS_ADMIN and PERFMON: root as if it were any other user.
AS_ANYONE = """
import ctypes, os, sys
for capability in (19, 21, 38):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def seen_by_a_child(*within: str) -> Any:
    ended = subprocess.run(
        [sys.executable, *within, "-c", PARENT, SECRET],
        env={**os.environ, "ENGINE_DATABASE_URL": SECRET, "OTHER": "kept"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(ended.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could still look")
def test_secrets_are_blanked_where_root_looks() -> None:
    found = seen_by_a_child()
    assert "hunter2" not in json.dumps(found)
    assert "*" * len(SECRET) in found["cmdline"] and "OTHER=kept" in found["environ"]


def test_nobody_else_looks_into_our_environment_and_memory() -> None:
    found = seen_by_a_child("-c", AS_ANYONE)
    assert (found["environ"], found["mem"]) == (None, None)
    assert "hunter2" not in found["cmdline"]


def test_what_is_hidden_is_not_inherited() -> None:
    inherited = seen_by_a_child("-c", AS_ANYONE)["inherited"]
    assert inherited["OTHER"] == "kept" and "ENGINE_DATABASE_URL" not in inherited


def test_worker_and_guardian_hide_what_they_know(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_DATABASE_URL", database_url)
    look = Look(database_url)
    with pool(database_url, tmp_path, processes=1) as worked:
        wait_until(lambda: look.one("SELECT count(*) FROM worker_session") == 1, 20)
        for process in (*worked.workers(), *worked.guardians()):
            assert process.cmdline()[-1].startswith("engine.worker.")
            try:
                assert database_url not in process.environ().values()
            except psutil.AccessDenied:
                assert os.geteuid() != 0
