"""JSON and YAML documents out of files: YAML 1.2 core without tags, aliases or repeated keys, within limits.

Whatever is wrong becomes `InvalidInput` with the place: `file:line:column: what`. YAML is read like that of
workflows, by `engine.definitions.source`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Never

from engine.definitions import source as yaml
from engine.errors import Fault, InvalidInput
from engine.model.json import JSON, MAX_INT, MIN_INT

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100  # of the file; parameters inside a graph have a limit of their own
STDIN = "-"

KeyPath = yaml.Path
Place = yaml.Place


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document. `find_places` gives the place of every value by its path; called for errors only."""

    source: str
    value: JSON
    find_places: Callable[[], Mapping[KeyPath, Place]]

    def error(self, path: KeyPath, message: str) -> InvalidInput:
        """An error at `path`, with the place of the nearest node that the document has."""
        places = self.find_places()
        nearest = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in places)
        return InvalidInput(_at(self.source, places[nearest], message))


def read(path: str) -> Document:
    """Read a document from a regular file, or from standard input if `path` is `-`."""
    source, text = read_text(path)
    return parse(text, source, only_json=Path(source).suffix.lower() == ".json")


def read_text(path: str) -> tuple[str, str]:
    """The name that errors give the file, and what is in it; `-` is standard input."""
    if path == STDIN:
        return "<stdin>", _decode(_limited(sys.stdin.buffer, "standard input"), "<stdin>")
    try:
        content = _read_file(path)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    except ValueError:  # a NUL in the path
        raise InvalidInput(f"{path!r} is not a path") from None
    return path, _decode(content, path)


def parse(text: str, source: str, *, only_json: bool = False) -> Document:
    """Parse JSON, or YAML where the text is not JSON."""
    if not text.strip():
        raise _empty(source)
    if only_json or text.lstrip()[0] in "{[":
        try:
            return Document(source, _parse_json(text, source), cache(partial(_places, text)))
        except json.JSONDecodeError as error:
            if only_json:
                raise InvalidInput(_at(source, (error.lineno, error.colno), error.msg)) from None
    return _parse_yaml(text, source)


def _read_file(path: str) -> bytes:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # asked before opening: a FIFO would block, a device never ends
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise InvalidInput(f"{path} is {kind}; give a file, or `-` to read standard input")
    with open(path, "rb") as file:
        return _limited(file, path)


def _limited(file: BinaryIO, source: str) -> bytes:
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{source} is larger than {MAX_BYTES // 2**20} MiB, the limit for documents")
    return content


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{source}:{line}: the document is not UTF-8 text") from None


def _empty(source: str) -> InvalidInput:
    return InvalidInput(f"{source}: the document is empty")


def _at(source: str, place: Place, message: str) -> str:
    return f"{source}:{place[0]}:{place[1]}: {message}"


# --- JSON


# Strings, brackets, separators, and whatever else stands between them: the text is known to be JSON.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _parse_json(text: str, source: str) -> JSON:
    """Raises `JSONDecodeError`, and `InvalidInput` for what the syntax allows and we do not."""
    try:
        document = _JSON.decode(text)
    except (InvalidInput, RecursionError):
        # The fast parser does not know where it is, so a slower look at the same text finds the place.
        raise _fault(text, source) from None
    if _is_too_deep(document):
        raise _fault(text, source)
    return document


def _is_too_deep(document: JSON) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidInput("a key appears twice")
    return document


def _refuse(constant: str) -> Never:
    raise InvalidInput(f"{constant} is not a JSON number")


_JSON = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_refuse,
    parse_int=lambda digits: _bounded(digits),
    parse_float=lambda digits: _finite(digits),
)


def _fault(text: str, source: str) -> InvalidInput:
    """The first thing in `text` that `_parse_json` refuses."""
    seen = set()
    for path, place, word in _values(text):
        if word in "{[" and len(path) >= MAX_DEPTH:
            return InvalidInput(_at(source, place, f"nesting is deeper than {MAX_DEPTH} levels"))
        if path in seen:
            return InvalidInput(_at(source, place, f"key {path[-1]!r} appears twice in one object"))
        seen.add(path)
        try:
            if word[0] not in '"{[':
                _JSON.decode(word)
        except InvalidInput as error:
            return InvalidInput(_at(source, place, str(error)))
    raise AssertionError("what was refused is in the text")


def _places(text: str) -> dict[KeyPath, Place]:
    return {path: place for path, place, _ in _values(text)}


def _values(text: str) -> Iterator[tuple[KeyPath, Place, str]]:
    """Path, place and first word of each value of a text whose syntax is right so far as it is read."""
    inside: list[str | int] = []  # of each collection around: the key or the index
    is_key = False
    line, line_start, end = 1, 0, 0
    for found in _TOKEN.finditer(text):
        word = found[0]
        if breaks := text.count("\n", end, found.start()):
            line, line_start = line + breaks, text.rindex("\n", end, found.start()) + 1
        end = found.end()
        if word == ":":
            continue
        if word == ",":
            index = inside[-1]
            is_key = isinstance(index, str)
            inside[-1] = "" if isinstance(index, str) else index + 1
        elif word in "}]":
            inside.pop()
            is_key = False
        elif is_key:
            inside[-1] = json.loads(word)
            is_key = False
        else:
            yield tuple(inside), (line, found.start() - line_start + 1), word
            if word in "{[":
                is_key = word == "{"
                inside.append("" if is_key else 0)


def _bounded(digits: str) -> int:
    if len(digits) <= 70 and MIN_INT <= (value := int(digits)) <= MAX_INT:
        return value
    raise InvalidInput(f"integer {digits[:20]}… is outside 64 bits")


def _finite(digits: str) -> float:
    if math.isfinite(value := float(digits)):
        return value
    raise InvalidInput(f"number {digits[:20]} is not finite")


# --- YAML


def _parse_yaml(text: str, source: str) -> Document:
    """Raises `InvalidInput` with a line for each thing that is wrong."""
    documents = yaml.parse(text, limit=MAX_BYTES)
    faults = [fault for document in documents for fault in document.faults]
    if len(documents) > 1:
        message = "one document is expected, a second one starts here"
        faults.append(Fault((), message, place=documents[1].place(())))
    if faults:
        raise InvalidInput("\n".join(_located(source, fault) for fault in faults))
    if not documents:
        raise _empty(source)
    found = documents[0]
    return Document(source, found.value, lambda: found.places)


def _located(source: str, fault: Fault) -> str:
    return f"{source}: {fault.message}" if fault.place is None else _at(source, fault.place, fault.message)
