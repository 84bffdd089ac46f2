"""The files for operators: units that keep what a stop promises, settings that are the contract's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from engine.cli.standalone import standalone
from engine.cli.worker import worker
from engine.settings import Settings, load, seconds
from engine.worker.pool import _OVERTIME_SECONDS
from tests.test_contract_settings import SEED

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))

# As in systemd.unit(5), systemd.service(5), systemd.exec(5) and systemd.kill(5).
KNOWN = {
    "Unit": "Description Wants After StartLimitIntervalSec",
    "Service": (
        "Type ExecStart Environment EnvironmentFile User DynamicUser StateDirectory StateDirectoryMode "
        "WorkingDirectory UMask KillMode TimeoutStopSec Restart RestartSec RestartPreventExitStatus "
        "OOMPolicy LimitNOFILE NoNewPrivileges CapabilityBoundingSet AmbientCapabilities ProtectSystem "
        "ProtectHome ProtectProc ProtectClock ProtectHostname ProtectControlGroups ProtectKernelLogs "
        "ProtectKernelModules ProtectKernelTunables PrivateTmp PrivateDevices RemoveIPC LockPersonality "
        "RestrictNamespaces RestrictRealtime RestrictSUIDSGID RestrictAddressFamilies "
        "SystemCallArchitectures SystemCallFilter SystemCallErrorNumber"
    ),
    "Install": "WantedBy",
}
SWITCHES = (
    "NoNewPrivileges PrivateTmp PrivateDevices ProtectHome ProtectClock ProtectHostname ProtectControlGroups "
    "ProtectKernelLogs ProtectKernelModules ProtectKernelTunables RestrictNamespaces RestrictRealtime "
    "RestrictSUIDSGID LockPersonality DynamicUser"
)

Unit = dict[str, dict[str, str]]


def parsed(path: Path) -> Unit:
    """Section and directive to value. Every line is one of both, a comment, or empty."""
    sections: Unit = defaultdict(dict)
    section = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            continue
        directive = re.fullmatch(r"(\w+)=(.*)", line)
        assert directive and section, f"{path.name}:{number}: {line}"
        assert directive[1] not in sections[section], f"{path.name}:{number}: said twice"
        sections[section][directive[1]] = directive[2]
    return sections


@pytest.fixture(params=UNITS, ids=lambda path: path.name)
def unit(request: pytest.FixtureRequest) -> Unit:
    return parsed(request.param)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ENGINE_", "EXECGO_")) and not name.startswith("ENGINE_TEST_"):
            monkeypatch.delenv(name)


def test_there_is_a_unit_for_the_server_and_one_for_workers() -> None:
    assert [path.name for path in UNITS] == ["task-engine-worker@.service", "task-engine.service"]


def test_every_directive_is_one_of_systemd(unit: Unit) -> None:
    assert unit.keys() == KNOWN.keys()
    assert [name for section in unit for name in unit[section] if name not in KNOWN[section].split()] == []


def test_a_stop_gives_running_tasks_their_time(unit: Unit) -> None:
    service = unit["Service"]
    longest = Settings.model_fields["shutdown_timeout"].default + _OVERTIME_SECONDS
    assert seconds(service["TimeoutStopSec"]) > longest
    assert service["KillMode"] == "mixed"  # tasks do not get the signal of the worker


def test_it_comes_back_whatever_ended_it_except_for_wrong_settings(unit: Unit) -> None:
    service = unit["Service"]
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "2")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["OOMPolicy"] == "continue"


def test_it_may_write_in_its_own_folder_only(unit: Unit) -> None:
    service = unit["Service"]
    assert [name for name in SWITCHES.split() if service[name] != "yes"] == []
    assert service["ProtectSystem"] == "strict"
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ("", "")
    assert (service["StateDirectory"], service["WorkingDirectory"]) == ("task-engine", "%S/task-engine")
    assert (service["StateDirectoryMode"], service["UMask"]) == ("0700", "0077")


def test_both_units_run_as_the_same_user_in_the_same_folder() -> None:
    first, second = (parsed(path)["Service"] for path in UNITS)
    own = {"ExecStart"}
    assert {name: value for name, value in first.items() if name not in own} == {
        name: value for name, value in second.items() if name not in own
    }


@pytest.mark.parametrize("name", [path.name for path in UNITS])
def test_what_is_started_exists_and_understands_its_flags(name: str) -> None:
    program, *arguments = parsed(DEPLOY / name)["Service"]["ExecStart"].replace("%H-%i", "host-1").split()
    assert Path(program).is_absolute()
    if Path(program).name == "task-engine-server":
        standalone.make_context("task-engine-server", arguments)  # raises a usage error
    else:
        assert (Path(program).name, arguments[:2]) == ("task-engine", ["worker", "start"])
        worker.commands["start"].make_context("start", arguments[2:])


def test_the_settings_are_those_of_the_contract_s_example(tmp_path: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(SEED)
    ours, example = (load({"config": str(path)}) for path in (DEPLOY / "config.yaml", seed))
    assert ours.model_dump(exclude={"config"}) == example.model_dump(exclude={"config"})


def test_what_is_commented_out_in_the_settings_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    text = (DEPLOY / "config.yaml").read_text()
    for key in ("type", "dsn"):
        text = re.sub(rf"^( +){key}: .*\n", "", text, flags=re.MULTILINE)
    keys = "type|dsn|modules|workers|shutdown_timeout|retention"
    text = re.sub(rf"^( *)# ((?:{keys}): )", r"\1\2", text, flags=re.MULTILINE)
    changed = tmp_path / "config.yaml"
    changed.write_text(text)
    settings = load({"config": str(changed)})
    assert settings.database == "postgresql://engine:hunter2@db.example.org/engine?sslmode=verify-full"
    assert (settings.workers, settings.functions[-1]) == (0, "shop.tasks")


def test_the_files_that_are_named_are_there() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    assert "dockerfile: deploy/Containerfile" in compose
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []
    named = re.findall(r"deploy/[\w@.-]+", (DEPLOY / "README.md").read_text())
    assert named and [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    """With a program that is there in place of the one that would be installed."""
    copy = tmp_path / path.name.replace("@", "@1")
    copy.write_text(path.read_text().replace("/opt/task-engine/bin/", "/bin/true "))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if copy.name in line]) == (0, [])
