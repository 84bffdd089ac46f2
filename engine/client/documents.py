"""JSON and YAML documents out of files: YAML 1.2 core without tags, aliases or repeated keys, within limits.

Whatever is wrong becomes `InvalidInput` with the place: `file:line:column: what`.
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
from typing import Any, BinaryIO, Never

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from engine.errors import InvalidInput
from engine.model.json import JSON, MAX_INT, MIN_INT

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100  # of the file; parameters inside a graph have a limit of their own
STDIN = "-"

KeyPath = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, JSON] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


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
    return _Builder(source).build(text)


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
    parse_int=lambda digits: _bounded(digits, ""),
    parse_float=lambda digits: _finite(digits, ""),
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


def _bounded(digits: str, where: str, base: int = 10) -> int:
    if len(digits) <= 70 and MIN_INT <= (value := int(digits, base)) <= MAX_INT:
        return value
    raise InvalidInput(f"{where}integer {digits[:20]}… is outside 64 bits")


def _finite(digits: str, where: str) -> float:
    if math.isfinite(value := float(digits)):
        return value
    raise InvalidInput(f"{where}number {digits[:20]} is not finite")


# --- YAML


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    value: dict[str, JSON] | list[JSON]
    path: KeyPath
    key: str | None = None


class _Builder:
    """Builds values from the parser's events: no recursion, no resolver, no constructor that could run."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._open: list[_Open] = []
        self._root: JSON = None
        self._documents = 0
        self._places: dict[KeyPath, Place] = {}

    def build(self, text: str) -> Document:
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                self._take(event)
        except MarkedYAMLError as error:
            raise self._marked(error) from None
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise InvalidInput(f"{self._source}:{line}: {error.reason}") from None
        except (YAMLError, RecursionError, ValueError) as error:
            raise InvalidInput(f"{self._source}: {str(error).splitlines()[0]}") from None
        if not self._documents:
            raise _empty(self._source)
        return Document(self._source, self._root, lambda: self._places)

    def _take(self, event: Any) -> None:
        match event:
            case AliasEvent():
                raise self._error(event, "aliases are not accepted; write the value out")
            case DocumentStartEvent():
                self._start_document(event)
            case MappingStartEvent() | SequenceStartEvent():
                self._start(event)
            case MappingEndEvent() | SequenceEndEvent():
                self._open.pop()
            case ScalarEvent():
                self._scalar(event)

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._error(event, "one document is expected, a second one starts here")
        if event.version not in (None, (1, 2)) or event.tags:
            raise self._error(event, "directives other than %YAML 1.2 are not accepted")

    def _start(self, event: Any) -> None:
        self._check_plain(event)
        if len(self._open) >= MAX_DEPTH:
            raise self._error(event, f"nesting is deeper than {MAX_DEPTH} levels")
        parent = self._open[-1] if self._open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            raise self._error(event, "a key must be text")
        value: dict[str, JSON] | list[JSON] = {} if isinstance(event, MappingStartEvent) else []
        self._open.append(_Open(value, self._add(event, value)))

    def _scalar(self, event: Any) -> None:
        self._check_plain(event)
        parent = self._open[-1] if self._open else None
        value = self._resolve(event)
        if parent is None or isinstance(parent.value, list) or parent.key is not None:
            self._add(event, value)
            return
        if not isinstance(value, str):
            raise self._error(event, f"a key must be text; put {event.value!r} in quotes")
        if value == "<<" and event.style is None:
            raise self._error(event, "merge keys are not accepted; write the values out")
        if value in parent.value:
            raise self._error(event, f"key {value!r} appears twice in one mapping")
        parent.key = value

    def _add(self, event: Any, value: JSON) -> KeyPath:
        """Put a value where it belongs; returns its path."""
        path: KeyPath = ()
        if not self._open:
            self._root = value
        else:
            parent = self._open[-1]
            if isinstance(parent.value, list):
                path = (*parent.path, len(parent.value))
                parent.value.append(value)
            else:
                assert parent.key is not None
                path = (*parent.path, parent.key)
                parent.value[parent.key] = value
                parent.key = None
        self._places[path] = (event.start_mark.line + 1, event.start_mark.column + 1)
        return path

    def _check_plain(self, event: Any) -> None:
        if event.anchor is not None:
            raise self._error(event, "anchors are not accepted")
        if event.tag is not None:
            raise self._error(event, f"tags are not accepted (found {str(event.tag)[:40]})")

    def _resolve(self, event: Any) -> JSON:
        """The YAML 1.2 core schema: `no` is text, `010` is ten, a date is text."""
        text: str = event.value
        if event.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        where = _at(self._source, (event.start_mark.line + 1, event.start_mark.column + 1), "")
        if _INT.fullmatch(text):
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return _bounded(text, where, base)
        if _FLOAT.fullmatch(text):
            return _finite(text, where)
        if _NOT_FINITE.fullmatch(text):
            raise self._error(event, f"{text} is not a finite number")
        return text

    def _error(self, event: Any, message: str) -> InvalidInput:
        mark = event.start_mark
        return InvalidInput(_at(self._source, (mark.line + 1, mark.column + 1), message))

    def _marked(self, error: MarkedYAMLError) -> InvalidInput:
        mark = error.problem_mark or error.context_mark
        message = " ".join(filter(None, (error.problem, error.context))) or "not YAML"
        if mark is None:
            return InvalidInput(f"{self._source}: {message}")
        return InvalidInput(_at(self._source, (mark.line + 1, mark.column + 1), message.splitlines()[0]))
