"""Agent actions become tasks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.service import Service

pytestmark = pytest.mark.anyio


async def translate(service: Service, action: dict[str, Any], **request: Any) -> dict[str, Any]:
    response = await service.client.post("/adapters/translate", json={"action": action, **request})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["accepted"] == 0
    return answer


async def one_task(service: Service, action: dict[str, Any], **request: Any) -> dict[str, Any]:
    [task] = (await translate(service, action, **request))["task_graph"]["tasks"]
    return dict(task)


async def test_capabilities_and_tools_are_listed(service: Service) -> None:
    capabilities = (await service.client.get("/adapters/capabilities")).json()
    assert capabilities["schema_version"] == "adapter.v1"
    assert capabilities["profiles"] == ["generic", "claudecode", "codex", "openclaw"]
    assert len(capabilities["action_kinds"]) == 12
    tools = (await service.client.get("/adapters/tools")).json()["tools"]
    assert [tool["action_kind"] for tool in tools] == capabilities["action_kinds"]
    assert {tool["name"]: tool.get("aliases") for tool in tools}["execgo.os.file"] == [
        "file.read",
        "file.write",
    ]


async def test_translation_stores_nothing(service: Service) -> None:
    before = service.rows()
    task = await one_task(
        service,
        {"kind": " OS.Noop ", "input": {"message": "x"}, "retry": 2, "timeout": 500},
        adapter="Codex",
        agent_id="agent",
        action_id="act-1",
        metadata={"team": "a", "blank": " "},
    )
    assert task["id"] == "act-1"
    assert (task["type"], task["tool_name"], task["execution_category"]) == ("os", "noop", "os")
    assert (task["input"], task["retry"], task["timeout"]) == ({"message": "x"}, 2, 500)
    assert (task["status"], task["created_at"]) == ("", "0001-01-01T00:00:00Z")
    assert task["annotations"] == {
        "team": "a",
        "adapter_schema": "adapter.v1",
        "adapter": "codex",
        "action_kind": "os.noop",
        "agent_id": "agent",
        "action_id": "act-1",
    }
    assert service.rows() == before


async def test_trace_says_where_the_tasks_came_from(service: Service) -> None:
    answer = await translate(
        service, {"kind": "Bash", "input": {"script": "x"}}, session_id="s", action_id=" a "
    )
    assert answer["task_ids"] == ["a"]
    assert answer["translation_trace"] == {
        "schema_version": "adapter.v1",
        "adapter": "generic",
        "agent_id": "",
        "session_id": "s",
        "action_id": " a ",
        "source_kind": "Bash",
        "normalized_kind": "os.shell",
        "task_ids": ["a"],
    }


@pytest.mark.parametrize(
    ("kind", "tool"),
    [("shell", "shell"), ("http.request", "http"), ("dns", "dns"), ("tcp", "tcp"), ("sleep", "sleep")],
)
async def test_kinds_have_aliases(service: Service, kind: str, tool: str) -> None:
    assert (await one_task(service, {"kind": kind, "input": {}}))["tool_name"] == tool


async def test_file_kinds_add_the_action_only_if_it_is_missing(service: Service) -> None:
    added = await one_task(service, {"kind": "file.read", "input": {"path": "p"}})
    assert added["input"] == {"action": "read", "path": "p"}
    kept = await one_task(service, {"kind": "file.write", "input": {"action": "append", "path": "p"}})
    assert kept["input"]["action"] == "append"


async def test_mcp_and_cli_actions(service: Service) -> None:
    named = await one_task(service, {"kind": "mcp.call", "input": {"tool_name": "t", "k": 1}})
    assert (named["type"], named["tool_name"], named["input"]) == ("mcp", "t", {"tool_name": "t", "k": 1})
    given = await one_task(service, {"kind": "mcp.call", "tool_name": "other", "input": {"tool_name": "t"}})
    assert given["tool_name"] == "other"
    cli = await one_task(service, {"kind": "cli.run", "input": {"command": "true"}})
    assert (cli["type"], cli["tool_name"]) == ("cli-skills", "cli.run")


async def test_runtime_actions_collect_their_execution(service: Service) -> None:
    values = {
        "program": "/bin/true",
        "args": ["a"],
        "env": {"A": "b", "N": 1},
        "limits": {"wall_time_ms": 1},
        "dropped": 1,
        "task_id": "from-input",
        "metadata": {"m": "1"},
    }
    task = await one_task(service, {"kind": "command", "input": values}, metadata={"m": "2", "r": "3"})
    assert (task["id"], task["type"]) == ("from-input", "runtime")
    assert task["input"]["execution"] == {
        "kind": "command",
        "program": "/bin/true",
        "args": ["a"],
        "env": {"A": "b"},
    }
    assert task["input"]["limits"] == {"wall_time_ms": 1}
    assert "dropped" not in task["input"]
    assert task["input"]["metadata"]["m"] == "2"
    assert task["input"]["metadata"]["adapter_schema"] == "adapter.v1"
    kept = await one_task(service, {"kind": "script", "input": {"execution": {"script": "x"}}})
    assert kept["input"]["execution"] == {"script": "x", "kind": "script"}


async def test_actions_are_submitted_and_run(service: Service) -> None:
    async with service.working():
        request = {"action_id": "act", "action": {"kind": "noop", "input": {"message": "hi"}}}
        response = await service.client.post("/adapters/actions", json=request)
        assert response.status_code == 202
        answer = response.json()
        assert (answer["accepted"], answer["task_ids"]) == (1, ["act"])
        [task] = answer["task_graph"]["tasks"]
        assert task["created_at"] != "0001-01-01T00:00:00Z"
        done = await service.poll("/tasks/act")
    assert done["result"] == {"ok": True, "message": "hi"}
    assert done["execution_category"] == "os"
    assert done["annotations"]["action_kind"] == "os.noop"


async def test_whole_graphs_pass_through(service: Service) -> None:
    graph = {"tasks": [{"id": "a", "type": "noop"}, {"id": "b", "type": "noop", "depends_on": ["a"]}]}
    for values in ({"task_graph": graph}, graph):
        request = {"action": {"kind": "task_graph.submit", "input": values}}
        shown = (await service.client.post("/adapters/translate", json=request)).json()
        assert [task["type"] for task in shown["task_graph"]["tasks"]] == ["os", "os"]
        answer = (await service.client.post("/adapters/actions", json=request)).json()
        assert answer["task_ids"] == ["a", "b"]
        assert all("annotations" not in task for task in answer["task_graph"]["tasks"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "action.kind is required"),
    ({"kind": " "}, "action.kind is required"),
    ({"kind": "nope"}, 'unknown action kind "nope"'),
    ({"kind": "mcp.call", "input": {}}, "tool_name is required for mcp.call"),
    ({"kind": "runtime.command", "input": {}}, "input.program is required for runtime.command"),
    ({"kind": "runtime.script", "input": {}}, "input.script is required for runtime.script"),
    ({"kind": "runtime.script", "input": []}, "input must be a JSON object"),
    ({"kind": "file.read", "input": 1}, "input must be a JSON object"),
    ({"kind": "task_graph.submit"}, "input is required for task_graph.submit"),
    ({"kind": "task_graph.submit", "input": {}}, "input must contain tasks or task_graph"),
    ({"kind": "task_graph.submit", "input": {"tasks": 1}}, "parse task graph input: "),
    ({"kind": "task_graph.submit", "input": {"tasks": []}}, "task graph is empty"),
    ({"kind": "noop", "depends_on": ["x"]}, 'task "a" depends on unknown task "x"'),
]


@pytest.mark.parametrize(("action", "error"), REFUSED, ids=lambda value: str(value)[:40])
async def test_bad_action_is_refused(service: Service, action: dict[str, Any], error: str) -> None:
    for path in ("/adapters/translate", "/adapters/actions"):
        response = await service.client.post(path, json={"action_id": "a", "action": action})
        assert response.status_code == 400, response.text
        assert response.json()["error"].startswith(f"invalid adapter action: {error}")
    assert service.rows()["run"] == 0


async def test_types_that_nobody_performs_are_refused_in_plain_words(service: Service) -> None:
    request = {"action": {"kind": "runtime.command", "input": {"program": "x"}}}
    response = await service.client.post("/adapters/actions", json=request)
    assert response.status_code == 400
    assert response.json() == {"error": "unknown task type: runtime (available: cli-skills, mcp, os)"}
    assert (
        (await service.client.post("/adapters/actions", content=b"{"))
        .json()["error"]
        .startswith("invalid JSON: ")
    )
