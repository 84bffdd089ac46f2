"""The examples of docs/plugins.md run as they stand, and it names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.functions.handlers import HANDLERS
from engine.model.plugins import PluginEvent
from engine.plugins.options import NAMES
from engine.plugins.registry import PluginRegistry

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_is_named() -> None:
    named = set(re.findall(r"`([^`\n]+)`", PAGE))
    assert {str(event) for event in PluginEvent} <= named
    assert {f"${{{name}}}" for name in NAMES} <= named
    assert set(HANDLERS.names()) <= named
    assert all(f"\n## {name}\n" in PAGE for name in PluginRegistry.installed().names())
