"""Files of workflow definitions: read, checked, joined for a server; faults with `file:line:column`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from engine.client.documents import read_text
from engine.definitions import named_in, read_files
from engine.errors import Fault, InvalidInput, WorkflowError, path_text
from engine.executors.registry import ExecutorRegistry
from engine.expressions.checks import reads_of
from engine.model.workflow_rules import Checks
from engine.model.workflows import Workflow

_AT = re.compile(r"(?P<path>.*?) ?\(line (?P<line>\d+), column (?P<column>\d+)\): (?P<what>.*)")
_OWN_START = re.compile(r"(?:[ \t\r]*(?:#.*)?\n)*(?:---|%)")  # a file that begins its document itself


def texts_of(paths: Iterable[str]) -> dict[str, str]:
    """What is in the files, by name. Raises `InvalidInput`."""
    return dict(map(read_text, paths))


def environment_of(texts: Mapping[str, str]) -> dict[str, str]:
    """Of the variables of this process those that the files name."""
    return named_in(texts.values(), os.environ)


def checked(texts: Mapping[str, str], checks: Checks) -> list[Workflow]:
    """The workflows of all files, with this process's variables in them.

    Raises `InvalidInput` with a line `file:line:column: …` for each fault.
    """
    try:
        return read_files(texts, checks=checks, environment=environment_of(texts))
    except WorkflowError as error:
        more = str(error).splitlines()[len(error.faults) :]  # how many are not told
        raise InvalidInput("\n".join([*map(_located, error.faults), *more])) from None


def checks_without_database(kinds: ExecutorRegistry | None = None) -> Checks:
    """Everything but the names of functions, which a database knows; and kinds, unless they are given."""
    if kinds is None:
        return Checks(condition=reads_of)
    return Checks(kinds=kinds.kinds(), condition=reads_of, params=kinds.problem)


def _located(fault: Fault) -> str:
    place = "" if fault.place is None else f"{fault.place[0]}:{fault.place[1]}"
    return _line(fault.source, place, path_text(fault.path), fault.message)


def _line(source: str, place: str, path: str, message: str) -> str:
    return ": ".join(filter(None, (":".join(filter(None, (source, place))), path, message)))


# --- several files as one text


class _Start(NamedTuple):
    line: int  # in the joined text, from 1
    source: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Files as the documents of one text, and where each of them begins."""

    text: str
    starts: list[_Start]

    def place(self, line: int) -> tuple[str, int]:
        """The file and its line that a line of the text is."""
        start = next(start for start in reversed(self.starts) if start.line <= line or start.line == 1)
        return start.source, line - start.line + 1


def join(texts: Mapping[str, str]) -> Joined:
    joined, starts = "", []
    for source, text in texts.items():
        if joined:
            joined += "" if joined.endswith("\n") else "\n"
            joined += "...\n" if _OWN_START.match(text) else "---\n"
        starts.append(_Start(joined.count("\n") + 1, source))
        joined += text
    return Joined(joined, starts)


def refused(joined: Joined, texts: Mapping[str, str], text: str) -> InvalidInput:
    """The error that a server's refusal tells. Where that was cut short, with what can be seen from here."""
    lines = [_placed(joined, line) for line in text.splitlines()]
    if text.endswith("…"):
        try:
            checked(texts, checks_without_database())
        except InvalidInput as error:
            lines = [*lines[:-1], *str(error).splitlines()]
    return InvalidInput("\n".join(dict.fromkeys(lines)))


def _placed(joined: Joined, line: str) -> str:
    found = _AT.fullmatch(line)
    if found is None:
        return line if line.startswith("…") else f"{joined.starts[0].source}: {line}"
    source, number = joined.place(int(found["line"]))
    return _line(source, f"{number}:{found['column']}", found["path"], found["what"])
