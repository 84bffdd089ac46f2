"""The programs under `examples/`, as modules."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@cache
def example(name: str) -> ModuleType:
    """`examples/<name>/<name>.py`, which is in no package."""
    module_name = f"example_{name}"
    spec = importlib.util.spec_from_file_location(module_name, EXAMPLES / name / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # types are looked up there by name
    spec.loader.exec_module(module)
    return module


def program(name: str) -> str:
    return str(EXAMPLES / name / f"{name}.py")
