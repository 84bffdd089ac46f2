"""YAML text as values with their places: YAML 1.2 core without tags, aliases or repeated keys, within limits.

Whatever is wrong is gathered, so that one reading tells all of it; only broken syntax ends the reading early.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

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

from engine.errors import MAX_FAULTS, Fault, InvalidInput
from engine.model.json import JSON, MAX_INT, MIN_INT

MAX_CHARACTERS = 4 * 1024 * 1024
MAX_DEPTH = 100  # of the document; parameters have a limit of their own

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # one character, as JSON escapes it
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 70
_WORDS: dict[str, JSON] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(slots=True)
class Document:
    """`texts` has the paths of texts that hold `${`, and whether they stand there without quotes.

    `is_broken`: the reading ended early, so what is missing in `value` may well be in the text.
    """

    value: JSON = None
    places: dict[Path, Place] = field(default_factory=dict)
    texts: dict[Path, bool] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    is_broken: bool = False

    @property
    def is_empty(self) -> bool:
        """Nothing, as behind a last `---`."""
        return self.value is None and not self.faults

    def place(self, path: Path) -> Place | None:
        """Of the nearest node that there is at or above `path`."""
        ends = range(len(path), -1, -1)
        return next((self.places[path[:end]] for end in ends if path[:end] in self.places), None)


def parse(text: str, *, limit: int = MAX_CHARACTERS) -> list[Document]:
    """The documents of a text of at most `limit` characters, each with what is wrong in it."""
    if not isinstance(text, str):
        raise InvalidInput(f"YAML is read from a text, got {type(text).__name__}")
    if len(text) > limit:
        too_long = Fault((), f"has {len(text)} characters, the limit is {limit}")
        return [Document(faults=[too_long], is_broken=True)]
    return _Builder().build(text)


def scalar(text: str) -> JSON:
    """The value of text without quotes, by the core schema: `no` is text, `010` is ten, a date is text.

    Raises `ValueError` for numbers that are no JSON.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        if len(text) <= _MAX_DIGITS and MIN_INT <= (value := int(text, base)) <= MAX_INT:
            return value
        raise ValueError(f"integer {text[:20]}… is outside 64 bits")
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
        raise ValueError(f"{text[:20]} is not a finite number")
    return float(text) if _FLOAT.fullmatch(text) else text


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    value: dict[str, JSON] | list[JSON]
    path: Path
    key: str | None = None


class _Stop(Exception):
    """There is no use in reading on."""


class _Builder:
    """Builds values from the parser's events: no recursion, no resolver, no constructor that could run."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._open: list[_Open] = []

    def build(self, text: str) -> list[Document]:
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                self._take(event)
        except _Stop:
            self._document.is_broken = True
        except MarkedYAMLError as error:
            self._break(_message(error), _place(error.problem_mark or error.context_mark))
        except ReaderError as error:
            line_start = text.rfind("\n", 0, error.position)
            line = text.count("\n", 0, error.position) + 1
            self._break(str(error.reason), (line, error.position - line_start))
        except (YAMLError, RecursionError, ValueError) as error:
            self._break(str(error).splitlines()[0], None)
        return self._documents

    def _break(self, message: str, place: Place | None) -> None:
        self._document.faults.append(Fault(self._path(), message, place=place))
        self._document.is_broken = True

    @property
    def _document(self) -> Document:
        if not self._documents:
            self._documents.append(Document())
        return self._documents[-1]

    def _take(self, event: Any) -> None:
        match event:
            case AliasEvent():
                self._add_fault("aliases are not accepted; write the value out", event.start_mark)
                self._scalar(event, None)
            case DocumentStartEvent():
                self._documents.append(Document())
                if event.version not in (None, (1, 2)) or event.tags:
                    self._add_fault("directives other than %YAML 1.2 are not accepted", event.start_mark)
            case MappingStartEvent() | SequenceStartEvent():
                self._start(event)
            case MappingEndEvent() | SequenceEndEvent():
                self._open.pop()
            case ScalarEvent():
                self._check_plain(event)
                self._scalar(event, self._value(event) if event.style is None else _joined(event.value))

    def _start(self, event: Any) -> None:
        self._check_plain(event)
        parent = self._open[-1] if self._open else None
        if len(self._open) >= MAX_DEPTH:
            self._add_fault(f"nesting is deeper than {MAX_DEPTH} levels", event.start_mark)
            raise _Stop
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            self._add_fault("a key must be text", event.start_mark)
            raise _Stop
        value: dict[str, JSON] | list[JSON] = {} if isinstance(event, MappingStartEvent) else []
        self._open.append(_Open(value, self._add(event, value)))

    def _scalar(self, event: Any, value: JSON) -> None:
        parent = self._open[-1] if self._open else None
        if parent is None or isinstance(parent.value, list) or parent.key is not None:
            path = self._add(event, value)
            if isinstance(value, str) and "${" in value:
                self._document.texts[path] = event.style is None
            return
        if not isinstance(value, str):
            written = getattr(event, "value", "")
            parent.key = str(written)
            self._add_fault(f"a key must be text; put {written[:40]!r} in quotes", event.start_mark)
            return
        is_repeated = value in parent.value
        parent.key = value
        if value == "<<" and event.style is None:
            self._add_fault("merge keys are not accepted; write the values out", event.start_mark)
        elif is_repeated:
            self._add_fault(f"key {value[:40]!r} appears twice in one mapping", event.start_mark)

    def _add(self, event: Any, value: JSON) -> Path:
        """Put a value where it belongs; returns its path."""
        path = self._path()
        if not self._open:
            self._document.value = value
        else:
            parent = self._open[-1]
            if isinstance(parent.value, list):
                parent.value.append(value)
            else:
                assert parent.key is not None
                parent.value[parent.key] = value
                parent.key = None
        self._document.places[path] = event.start_mark.line + 1, event.start_mark.column + 1
        return path

    def _path(self) -> Path:
        """Of the node that comes next."""
        if not self._open:
            return ()
        parent = self._open[-1]
        if isinstance(parent.value, list):
            return (*parent.path, len(parent.value))
        return parent.path if parent.key is None else (*parent.path, parent.key)

    def _check_plain(self, event: Any) -> None:
        if event.anchor is not None:
            self._add_fault("anchors are not accepted", event.start_mark)
        if event.tag is not None:
            self._add_fault(f"tags are not accepted (found {str(event.tag)[:40]})", event.start_mark)

    def _value(self, event: Any) -> JSON:
        try:
            return scalar(event.value)
        except ValueError as error:
            self._add_fault(str(error), event.start_mark)
            return None

    def _add_fault(self, message: str, mark: Any) -> None:
        self._document.faults.append(Fault(self._path(), message, place=_place(mark)))
        if len(self._document.faults) > MAX_FAULTS:
            raise _Stop


def _joined(text: str) -> str:
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def _place(mark: Any) -> Place | None:
    return None if mark is None else (mark.line + 1, mark.column + 1)


def _message(error: MarkedYAMLError) -> str:
    words = " ".join(filter(None, (error.problem, error.context))) or "not YAML"
    return " ".join(words.split())
