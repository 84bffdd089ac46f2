"""The examples of docs/testing.md are tests that pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.testing.project import run_tests

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path) -> None:
    assert " passed" in run_tests(tmp_path, EXAMPLES[number])
