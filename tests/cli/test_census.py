"""The census of `examples/`: its report against a census taken in Python."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from engine.client.documents import read
from tests.cli.process import Program

CENSUS = Path(__file__).resolve().parents[2] / "examples" / "census" / "census.yaml"
SKIPPED = {"__pycache__", "node_modules"}


def cksum(content: bytes) -> int:
    """POSIX `cksum`, written from its definition."""
    crc = 0
    length = len(content)
    tail = bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    for byte in (*content, *tail):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return ~crc & 0xFFFFFFFF


def files_of(root: bytes) -> Iterable[bytes]:
    for folder, names, files in os.walk(root):
        kept = [n for n in names if not n.startswith(b".") and n.decode(errors="replace") not in SKIPPED]
        names[:] = [n for n in kept if folder != root or n not in (b"data", b"census-work")]
        yield from (os.path.join(folder, name) for name in files)


def census_of(root: Path) -> str:
    """What the report must say."""
    contents = {path: Path(os.fsdecode(path)).read_bytes() for path in files_of(os.fsencode(root))}
    ends = Counter(extension(os.path.basename(path)) for path in contents)
    del ends[b""]
    top = sorted(ends.items(), key=lambda item: (-item[1], item[0]))[:5]
    lines = [
        b"Census of a source tree",
        b"",
        b"files %d" % len(contents),
        b"lines %d" % sum(content.count(b"\n") for content in contents.values()),
        b"bytes %d" % sum(map(len, contents.values())),
        *(b"extension %d %s" % (count, end) for end, count in top),
    ]
    for part, letters in {"a": "abcdef", "b": "ghijklm", "c": "nopqrstuvwxyz"}.items():
        chosen = (p for p in contents if chr(os.path.basename(p)[0]).lower() in letters)
        lines.append(b"hash-%s %d" % (part.encode(), combined(contents[path] for path in chosen)))
    others = (p for p in contents if not os.path.basename(p)[:1].isalpha())
    lines.append(b"hash-d %d" % combined(contents[path] for path in others))
    return os.fsdecode(b"\n".join(lines) + b"\n")


def combined(contents: Iterable[bytes]) -> int:
    return cksum(b"".join(sorted(b"%d %d\n" % (cksum(content), len(content)) for content in contents)))


def extension(name: bytes) -> bytes:
    _, dot, end = name.replace(b"\n", b"?").rpartition(b".")
    return end if dot and not name.startswith(b".") else b""


@pytest.fixture
def tree(empty_folder: Path) -> Path:
    """A small tree with every kind of name that shell scripts stumble over."""
    (empty_folder / "src" / "deep er").mkdir(parents=True)
    names = [b"plain.py", b"two words.py", b"-n", b"-rf.md", b"new\nline.txt", b"quote'\".txt", b"star*.txt"]
    names += [
        b"\xff\xfe.bin",
        "日本語.txt".encode(),
        b".hidden",
        b"$(touch evil)",
        b"back\\slash.c",
        b"Zed.c",
        b"m.c",
    ]
    for number, name in enumerate(names):
        folder = b"src/deep er" if number % 2 else b"."
        Path(os.fsdecode(os.path.join(folder, name))).write_bytes(b"line\n" * number + name)
    (empty_folder / "empty.txt").touch()
    for left_out in (".git", "data", "node_modules", "src/__pycache__"):
        (empty_folder / left_out).mkdir()
        (empty_folder / left_out / "seen.txt").write_text("must not be counted\n")
    shutil.copyfile(CENSUS, empty_folder / "census.yaml")
    return empty_folder


def test_the_report_is_what_python_counts(tree: Path, start: Callable[..., Program]) -> None:
    expected = census_of(tree)
    before = {path.name for path in tree.iterdir()}
    first = start("run", "census.yaml")
    assert first.wait() == 0, first.text
    assert (tree / "census-report.txt").read_bytes() == os.fsencode(expected)
    assert {path.name for path in tree.iterdir()} - before == {"census-report.txt", "census-work"}
    second = start("run", "census.yaml")  # its own leavings change nothing
    assert second.wait() == 0, second.text
    assert (tree / "census-report.txt").read_bytes() == os.fsencode(expected)


def test_the_census_needs_only_the_built_in_kinds_shell_and_file() -> None:
    tasks = read(str(CENSUS)).value["tasks"]
    assert {task["kind"] for task in tasks} == {"shell", "file"}
