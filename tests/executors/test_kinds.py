"""The built-in kinds are what `docs/kinds.md` and their JSON Schemas say."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from engine.api.run_translation import graph_of, validate
from engine.api.run_wire import RunIn
from engine.client.documents import parse
from engine.executors import reference
from engine.executors.base import ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import TaskSpec
from engine.model.outcomes import Succeeded
from tests.api.service import Service
from tests.executors.factories import make_context
from tests.executors.test_registry import OURS

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).resolve().parents[2] / "docs" / "kinds.md"
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.DOTALL | re.MULTILINE))
DESCRIBED = [kind for kind in OURS if kind not in ("mcp", "os")]  # these take anything
NEED_NETWORK = {"http", "dns", "tcp"}


@pytest.fixture
def registry(settings: ExecutorSettings) -> ExecutorRegistry:
    return ExecutorRegistry.from_entry_points(settings)


def examples(kind: str, registry: ExecutorRegistry) -> list[TaskSpec]:
    """The tasks of the kind's section, as the native contract accepts them."""
    [text] = re.findall(r"```yaml\n(.*?)```", SECTIONS[kind], re.DOTALL)
    tasks = graph_of(validate(RunIn, parse(text, "docs/kinds.md").value), registry).tasks
    assert all(task.kind == kind for task in tasks)
    return list(tasks)


def test_every_kind_has_its_section() -> None:
    assert sorted(SECTIONS) == sorted(OURS)


def test_documentation_shows_the_kinds_as_they_are(registry: ExecutorRegistry) -> None:
    """`ENGINE_TEST_WRITE_DOCS=1 pytest tests/executors/test_kinds.py` brings it up to date."""
    tables = {kind: reference.parameters(registry, kind) for kind in DESCRIBED}
    tables["whitelist"] = reference.whitelist()
    marked = re.compile(r"(<!-- ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    if os.environ.get("ENGINE_TEST_WRITE_DOCS"):
        DOCS.write_text(marked.sub(lambda found: found[1] + tables[found[2]] + found[4], DOCS.read_text()))
        return
    assert {found[2]: found[3] for found in marked.finditer(DOCS.read_text())} == tables


@pytest.mark.parametrize("kind", DESCRIBED)
def test_every_parameter_is_explained(registry: ExecutorRegistry, kind: str) -> None:
    assert all(field["description"] for field in registry.schema(kind)["properties"].values())


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind != "os"])
def test_every_example_is_accepted(registry: ExecutorRegistry, kind: str) -> None:
    for task in examples(kind, registry):
        assert registry.unknown(kind, task.params) == {}


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind not in {"os", "cli-skills"} | NEED_NETWORK])
async def test_every_example_gives_the_result_that_is_shown(registry: ExecutorRegistry, kind: str) -> None:
    for task in examples(kind, registry):
        outcome = await registry.get(kind).execute(make_context(), task.params)
        assert isinstance(outcome, Succeeded), outcome
        assert f"`{json.dumps(outcome.result)}`" in SECTIONS[kind]


async def test_agents_are_shown_the_same_schemas(service: Service, registry: ExecutorRegistry) -> None:
    tools = (await service.client.get("/adapters/tools")).json()["tools"]
    shown = {tool["action_kind"]: tool["input_schema"] for tool in tools}
    told = {f"os.{kind}": registry.schema(kind) for kind in DESCRIBED if kind != "cli-skills"}
    told["cli.run"] = registry.schema("cli-skills")
    assert shown == {**{action: {"type": "object"} for action in shown}, **told}


@pytest.mark.parametrize("kind", DESCRIBED)
def test_the_schema_tells_what_is_refused(registry: ExecutorRegistry, kind: str) -> None:
    schema, executor = registry.schema(kind), registry.get(kind)
    needed = set(schema.get("required", ()))
    example = examples(kind, registry)[-1].params
    executor.check({name: value for name, value in example.items() if name in needed or kind == "shell"})
    for name in needed:
        with pytest.raises(ValueError):
            executor.check({**example, name: None})
    for name, field in schema["properties"].items():
        accepted, refused = limits(field)
        for value in accepted:
            executor.check({**example, name: value})
        for value in refused:
            with pytest.raises(ValueError):
                executor.check({**example, name: value})


def limits(field: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values at the edge of what the schema of one parameter accepts, inside and outside."""
    accepted, refused = list(field.get("enum", ())), ["?"] if "enum" in field else []
    for edge, step in (("minimum", -1), ("maximum", 1)):
        if edge in field:
            accepted.append(field[edge])
            refused.append(field[edge] + step)
    return accepted, refused
