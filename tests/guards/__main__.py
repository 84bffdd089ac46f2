"""Takes each guard out of a copy of the source and demands that its test fails.

    python -m tests.guards              all of them (minutes), two at a time
    python -m tests.guards fence beat   those whose name contains one of the words

A guard that can be deleted without a red test is not tested. `docs/guards.md` is the list to read;
`python -m tests.guards --table` prints its table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.guards import GUARDS
from tests.guards.guard import Guard

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240
_COPIED = ("engine", "migrations", "tests", "pyproject.toml", "README.md", "alembic.ini")


def main(words: list[str]) -> int:
    if words == ["--table"]:
        print(table())
        return 0
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    with ThreadPoolExecutor(int(os.environ.get("ENGINE_TEST_PROCESSES", "2"))) as threads:
        verdicts = list(threads.map(verdict, chosen))
    for guard, said in zip(chosen, verdicts, strict=True):
        if said:
            print(f"NOT TESTED: {guard.name}: {said}")
    print(f"{len(chosen) - sum(map(bool, verdicts))} of {len(chosen)} guards are tested")
    return int(any(verdicts))


def verdict(guard: Guard) -> str:
    """Empty if the test fails without the guard, otherwise what is wrong."""
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        copy = Path(folder)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        target = copy / guard.file
        text = target.read_text()
        if text.count(guard.old) != 1:
            return f"its text is {text.count(guard.old)} times in {guard.file}"
        target.write_text(text.replace(guard.old, guard.new))
        code, output = _run(copy, guard.test)
    said = {0: "its test passes without it", 1: ""}.get(code, f"pytest ended with {code}:\n{output[-2000:]}")
    print("." if not said else "F", end="", flush=True)
    return said


def _run(folder: Path, test: str) -> tuple[int, str]:
    how = ["-p", "no:cacheprovider", "-x", "-m", "not chaos", "--timeout=120"]
    command = [sys.executable, "-m", "pytest", *how, test]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "took too long"  # it hangs without the guard, which is a way to fail
    return done.returncode, done.stdout


def table() -> str:
    lines = ["| guard | where | without it | test that fails |", "| --- | --- | --- | --- |"]
    for guard in GUARDS:
        test = guard.test.removeprefix("tests/")
        where = guard.file.removeprefix("engine/")
        lines.append(f"| {guard.name} | `{where}` | {guard.keeps} | `{test}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
