"""noop, sleep, os and mcp, and the parameter rules that all tools share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.executors.base import ExecutorSettings
from engine.executors.dns import DnsExecutor
from engine.executors.file import FileExecutor
from engine.executors.http import HttpExecutor
from engine.executors.mcp import McpExecutor
from engine.executors.noop import NoopExecutor
from engine.executors.os import UnknownToolExecutor
from engine.executors.shell import ShellExecutor
from engine.executors.sleep import SleepExecutor
from engine.executors.tcp import TcpExecutor
from engine.model.outcomes import Failed, Succeeded
from tests.executors.factories import Recorder, make_context

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("params", "message"), [(None, ""), ({}, ""), ({"message": "hi"}, "hi"), ({"message": None}, "")]
)
async def test_noop_repeats_its_message(settings: ExecutorSettings, params: Any, message: str) -> None:
    outcome = await NoopExecutor(settings).execute(make_context(), params)
    assert outcome == Succeeded({"ok": True, "message": message})


@pytest.mark.parametrize("milliseconds", [0, 1])
async def test_sleep_says_how_long_it_slept(settings: ExecutorSettings, milliseconds: int) -> None:
    outcome = await SleepExecutor(settings).execute(make_context(), {"duration_ms": milliseconds})
    assert outcome == Succeeded({"slept_ms": milliseconds})


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        (-1, "duration_ms must be non-negative"),
        (600_001, "duration_ms exceeds max of 600000 ms"),
        (2**70, "duration_ms exceeds max of 600000 ms"),
    ],
)
async def test_sleep_refuses_what_is_out_of_range(
    settings: ExecutorSettings, duration: int, message: str
) -> None:
    outcome = await SleepExecutor(settings).execute(make_context(), {"duration_ms": duration})
    assert outcome == Failed(message)


async def test_a_sleep_can_be_cancelled(settings: ExecutorSettings) -> None:
    handle = asyncio.create_task(SleepExecutor(settings).execute(make_context(), {"duration_ms": 600_000}))
    await asyncio.sleep(0)
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle


TOOLS = [SleepExecutor, ShellExecutor, FileExecutor, HttpExecutor, DnsExecutor, TcpExecutor]


@pytest.mark.parametrize("executor", TOOLS, ids=lambda executor: executor.kind)
@pytest.mark.parametrize("params", [None, [], "x", 3, True], ids=repr)
async def test_params_that_are_no_object_are_a_parse_error(
    settings: ExecutorSettings, executor: Any, params: Any
) -> None:
    outcome = await executor(settings).execute(make_context(), params)
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith(f"parse {executor.kind} params: ")
    assert (outcome.code, outcome.source, outcome.is_permanent) == ("external_failure", "executor", False)
    with pytest.raises(ValueError, match="parse"):
        executor(settings).check(params)


@pytest.mark.parametrize(
    ("executor", "params"),
    [
        (SleepExecutor, {"duration_ms": "3"}),
        (SleepExecutor, {"duration_ms": 3.0}),
        (SleepExecutor, {"duration_ms": True}),
        (ShellExecutor, {"command": 1}),
        (ShellExecutor, {"command": "ls", "args": "x"}),
        (ShellExecutor, {"command": "ls", "args": [1]}),
        (HttpExecutor, {"url": "http://x", "headers": {"A": 1}}),
        (TcpExecutor, {"address": "x:1", "timeout_ms": "5"}),
        (DnsExecutor, {"name": ["x"]}),
        (FileExecutor, {"action": "write", "path": "x", "content": {}}),
        (NoopExecutor, {"message": 5}),
    ],
)
async def test_a_wrong_json_type_is_a_parse_error(
    settings: ExecutorSettings, executor: Any, params: Any
) -> None:
    outcome = await executor(settings).execute(make_context(), params)
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith(f"parse {executor.kind} params: ")


async def test_a_parse_error_is_one_short_line(settings: ExecutorSettings) -> None:
    params = {"url": "http://x", "headers": {"a\n" + "b" * 10_000: 5}}
    outcome = await HttpExecutor(settings).execute(make_context(), params)
    assert isinstance(outcome, Failed)
    assert len(outcome.message) < 250
    assert outcome.message.isprintable()
    assert "https://" not in outcome.message


async def test_unknown_keys_are_ignored(settings: ExecutorSettings) -> None:
    outcome = await SleepExecutor(settings).execute(make_context(), {"duration_ms": 0, "colour": "red"})
    assert isinstance(outcome, Succeeded)


@pytest.mark.parametrize(
    ("client", "name"),
    [(None, "os"), ({}, "os"), ({"tool_name": " nope "}, "nope"), ({"tool_name": " "}, "os")],
)
async def test_an_unknown_tool_fails_with_its_name(
    settings: ExecutorSettings, client: Any, name: str
) -> None:
    outcome = await UnknownToolExecutor(settings).execute(make_context(client=client), {})
    assert outcome == Failed(f'unknown os tool "{name}"')


@pytest.mark.parametrize("params", [None, {"a": [1]}, "text"])
async def test_mcp_echoes_its_input_and_reports_its_steps(settings: ExecutorSettings, params: Any) -> None:
    recorder = Recorder()
    context = make_context(recorder, client={"tool_name": "mcp.execute"})
    outcome = await McpExecutor(settings).execute(context, params)
    assert outcome == Succeeded({"echo": params, "tool_name": "mcp.execute"})
    steps = recorder.reports[-1]
    assert [step["message"] for step in steps] == ["task accepted", "task started", "task completed"]
    assert all(step["timestamp"].endswith("Z") for step in steps)


async def test_mcp_without_a_tool_name_says_so_with_an_empty_one(settings: ExecutorSettings) -> None:
    outcome = await McpExecutor(settings).execute(make_context(client=None), None)
    assert outcome == Succeeded({"echo": None, "tool_name": ""})
