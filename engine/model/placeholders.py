"""Placeholders in the parameters of tasks: `${name}` and `${{ tasks.load.result.rows[0]["a key"] }}`.

A text that is one placeholder and nothing else becomes the value as it is; inside longer text the value is
written out. `$${` is a literal `${`. A `${` that no name follows (`${DAY:today}`, `${#list}`) stays as it is.
What is put in is never looked at again: a value cannot bring placeholders along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import Fault, ParamsError, UnresolvedReference, path_text
from engine.model.json import JSON, MAX_DEPTH
from engine.model.shapes import kind_of

MAX_INSERTED = 4 * 1024 * 1024  # characters that placeholders may add to the parameters of a task
MAX_STEPS = 64

Path = tuple[str | int, ...]

_NAME = r"[^\W\d][\w.-]*"
_START = re.compile(r"\$\$\{|\$\{\{|\$\{\s*(" + _NAME + r")\s*\}")
_ROOT = re.compile(r"\s*(tasks|params)(?![\w-])")
_STEP = re.compile(
    r"""\.([^\W\d][\w-]*)|\[\s*([0-9]{1,9})\s*\]|\[\s*("(?:[^"\\]|\\.)*"|'[^']*')\s*\]""", re.DOTALL
)
_END = re.compile(r"\s*\}\}")
_BRACED = re.compile(r"(?<!\$)\$\{\s*([^{}]+?)\s*\}")

OPEN = "${…}"  # stands for any value that is known later


def is_open(value: JSON) -> bool:
    """Whether `value` is, or holds, text that is put together when the run starts or the task runs."""
    if isinstance(value, dict):
        return any(map(is_open, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_open, value))
    return isinstance(value, str) and "${" in value


class BadPlaceholder(ValueError):
    """A `${{ … }}` that is no reference; the message quotes it and says what was expected."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Part of a parameter of the run, or of the result of `task`. `text` is as it was written."""

    text: str
    task: str | None  # None: a parameter, whose name is the first step
    steps: Path
    is_declared: bool = False  # written as `${{ params.… }}`, which only names what the workflow declares

    @property
    def param(self) -> str | None:
        return None if self.task is not None else str(self.steps[0])


Parts = tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A text that waits for results of tasks, in parts, at its path in the parameters."""

    at: Path
    parts: Parts

    def to_json(self) -> JSON:
        parts = [
            part if isinstance(part, str) else {"text": part.text, "task": part.task, "steps": [*part.steps]}
            for part in self.parts
        ]
        return {"at": [*self.at], "parts": parts}

    @classmethod
    def from_json(cls, document: JSON) -> Pending:
        parts = tuple(
            part if isinstance(part, str) else Reference(part["text"], part["task"], tuple(part["steps"]))
            for part in document["parts"]
        )
        return cls(tuple(document["at"]), parts)


@dataclass(slots=True)
class Bound:
    """Parameters with those of the run put in. `missing` has the first place of each name that is unknown."""

    value: JSON = None
    pending: list[Pending] = field(default_factory=list)
    missing: dict[str, Path] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def parse(text: str) -> Parts:
    """Literal text and references, in order; neighbouring literals are one. Raises `BadPlaceholder`."""
    parts: list[str | Reference] = []
    literal: list[str] = []
    position = 0
    while found := _START.search(text, position):
        literal.append(text[position : found.start()])
        position = found.end()
        if found[0] == "$${":
            literal.append("${")
            continue
        if found[1] is not None:
            reference = Reference(found[0], None, (found[1],))
        else:
            reference, position = _reference(text, found.start())
        parts += ["".join(literal), reference]
        literal = []
    parts.append("".join([*literal, text[position:]]))
    return tuple(part for part in parts if part != "")


def references(
    value: JSON, declared: Collection[str] = ()
) -> Iterator[tuple[Path, Reference | BadPlaceholder]]:
    """Every reference in the texts of `value` with its path, and the error of what is none.

    `${a b}` is an error if that parameter is `declared`: text would be left that looks like it.
    """
    for path, text in _texts(value, ()):
        try:
            yield from ((path, part) for part in parse(text) if isinstance(part, Reference))
        except BadPlaceholder as error:
            yield path, error
        for found in _BRACED.finditer(text):
            if found[1] in declared and not _START.match(found[0]):
                named = json.dumps(found[1], ensure_ascii=False)
                yield path, BadPlaceholder(f"{found[0]}: write ${{{{ params[{named}] }}}}")


def resolve(value: JSON, *, params: Mapping[str, JSON], results: Mapping[str, JSON]) -> JSON:
    """`value` with every placeholder replaced. Raises `ParamsError` or `UnresolvedReference`, naming all."""
    bound = bind(value, params)
    if bound.missing:
        raise ParamsError(missing_text({name: path_text(path) for name, path in bound.missing.items()}))
    if bound.faults:
        raise ParamsError("\n".join(map(str, bound.faults)))
    return complete(bound.value, bound.pending, results)


def missing_text(places: Mapping[str, str]) -> str:
    """One line for all missing parameters: `missing parameters: day (tasks[0].params.day), region`."""
    named = (f"{name} ({place})" if place else name for name, place in places.items())
    return f"missing parameters: {', '.join(named)}"


def bind(value: JSON, params: Mapping[str, JSON]) -> Bound:
    """Put the run's parameters in, and find what waits for results. Raises `BadPlaceholder`.

    A name that `params` lacks is looked for among the literal values beside it: the top level of `value`.
    """
    bound = Bound()
    bound.value = _Binder({**_literals(value), **params}, bound).fill(value, ())
    return bound


def complete(value: JSON, pending: Sequence[Pending], results: Mapping[str, JSON]) -> JSON:
    """Put results in. `value` stays as it was. Raises `UnresolvedReference`, naming all that is not there."""
    if not pending:
        return value
    holder = [_copied(value)]
    insert, wrong = _Insert(), []
    for item in pending:
        try:
            filled = insert.joined(item.parts, lambda reference: look_up(reference, results))
            _put(holder, item.at, filled)
        except UnresolvedReference as error:
            wrong.append(str(Fault(item.at, str(error))))
    if wrong:
        raise UnresolvedReference("\n".join(wrong))
    return holder[0]


def look_up(reference: Reference, values: Mapping[str, JSON]) -> JSON:
    """The referred part of a result, or of a parameter. Raises `UnresolvedReference`."""
    if reference.task is None:
        name, *steps = reference.steps
        what = f"the parameter {json.dumps(name, ensure_ascii=False)}"
    else:
        name, steps = reference.task, [*reference.steps]
        what = f"the result of {json.dumps(name, ensure_ascii=False)}"
    if name not in values:
        raise UnresolvedReference(f"{reference.text}: {what} is not there")
    value = values[str(name)]
    for depth, step in enumerate(steps):
        if not _has(value, step):
            where = path_text(steps[:depth])
            raise UnresolvedReference(
                f"{reference.text}: {what}{f' at {where}' if where else ''} {_lack(value, step)}"
            )
        value = value[step]
    return value


def text_of(value: JSON) -> str:
    """A value inside longer text: text as it is, null as nothing, all else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- parsing


def _reference(text: str, start: int) -> tuple[Reference, int]:
    """The reference that begins at `start`, and the position behind it."""
    root = _ROOT.match(text, start + 3)
    if root is None:
        raise _bad(text, start, "expected tasks.… or params.…")
    steps, position = [], root.end()
    while found := _STEP.match(text, position):
        steps.append(_step(text, start, found))
        position = found.end()
    end = _END.match(text, position)
    if end is None or len(steps) > MAX_STEPS:
        raise _bad(text, start, 'expected a path such as tasks.load.result.rows[0]["a key"] and }}')
    written = text[start : end.end()]
    match root[1], steps:
        case "params", [str(), *_]:
            return Reference(written, None, tuple(steps), is_declared=True), end.end()
        case "tasks", [str(name), "result", *rest]:
            return Reference(written, name, tuple(rest)), end.end()
        case "params", _:
            raise _bad(text, start, "expected params.<name>")
        case _:
            raise _bad(text, start, "expected tasks.<name>.result")


def _step(text: str, start: int, found: re.Match[str]) -> str | int:
    if found[1] is not None:
        return found[1]
    if found[2] is not None:
        return int(found[2])
    if found[3][0] == "'":
        return found[3][1:-1]
    try:
        step: str = json.loads(found[3], strict=False)
    except ValueError:
        raise _bad(text, start, f"{found[3][:40]} is not a JSON string") from None
    return step


def _bad(text: str, start: int, expected: str) -> BadPlaceholder:
    quoted = text[start : start + 60].partition("}}")
    return BadPlaceholder(f"{quoted[0]}{quoted[1]}: {expected}")


def _texts(value: JSON, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        if "${" in value:
            yield path, value
    elif len(path) > MAX_DEPTH:
        raise BadPlaceholder(f"nesting is deeper than {MAX_DEPTH} levels")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _literals(value: JSON) -> dict[str, JSON]:
    """The values that hold no placeholder, of an object's own level."""
    if not isinstance(value, Mapping):
        return {}
    found = {key: item for key, item in value.items() if not isinstance(item, Mapping | list | tuple)}
    return {key: item for key, item in found.items() if not (isinstance(item, str) and "${" in item)}


# --- putting in


@dataclass(slots=True)
class _Insert:
    """Joins parts, and keeps count: a short text that is put in often is a long one."""

    added: int = 0
    sizes: dict[tuple[str | None, Path], int] = field(default_factory=dict)

    def joined(self, parts: Parts, value_of: Callable[[Reference], JSON]) -> JSON:
        """The one value there is, or all of them as text."""
        match parts:
            case (Reference() as reference,):
                value = value_of(reference)
                self._count(self._size(reference, value))
                return value
        return "".join(part if isinstance(part, str) else self.text(value_of(part)) for part in parts)

    def text(self, value: JSON) -> str:
        written = text_of(value)
        self._count(len(written))
        return written

    def _size(self, reference: Reference, value: JSON) -> int:
        key = reference.task, reference.steps
        if key not in self.sizes:
            self.sizes[key] = len(text_of(value))
        return self.sizes[key]

    def _count(self, characters: int) -> None:
        self.added += characters
        if self.added > MAX_INSERTED:
            raise ParamsError(f"placeholders add more than {MAX_INSERTED} characters to the parameters")


class _Binder:
    def __init__(self, params: Mapping[str, JSON], bound: Bound) -> None:
        self._params = params
        self._bound = bound
        self._insert = _Insert()

    def fill(self, value: JSON, path: Path) -> JSON:
        if isinstance(value, str):
            return self._text(value, path) if "${" in value else value
        if len(path) > MAX_DEPTH:
            raise BadPlaceholder(f"nesting is deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return {key: self.fill(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def _text(self, text: str, path: Path) -> JSON:
        parts = parse(text)
        if not self._is_known(parts, path):
            return text
        if all(isinstance(part, str) or part.task is None for part in parts):
            return self._insert.joined(parts, self._value)
        known = tuple(
            part if isinstance(part, str) or part.task is not None else self._insert.text(self._value(part))
            for part in parts
        )
        self._bound.pending.append(Pending(path, known))
        return text

    def _is_known(self, parts: Parts, path: Path) -> bool:
        """Whether all parameters are there; those that are not are noted."""
        is_known = True
        for part in parts:
            if isinstance(part, str) or part.param is None:
                continue
            try:
                self._value(part)
            except UnresolvedReference as error:
                is_known = False
                if part.param in self._params:
                    self._bound.faults.append(Fault(path, str(error)))
                else:
                    self._bound.missing.setdefault(part.param, path)
        return is_known

    def _value(self, reference: Reference) -> JSON:
        return look_up(reference, self._params)


def _has(value: JSON, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, list | tuple) and step < len(value)
    return isinstance(value, Mapping) and step in value


def _lack(value: JSON, step: str | int) -> str:
    match value:
        case Mapping() if isinstance(step, str):
            known = ", ".join(sorted(map(str, value))[:10])
            return f"has no {json.dumps(step[:80], ensure_ascii=False)} (it has {known or 'no keys'})"
        case list() | tuple() if isinstance(step, int):
            return f"has no [{step}] (it has {len(value)} items)"
        case _:
            wanted = f"[{step}]" if isinstance(step, int) else json.dumps(step[:80], ensure_ascii=False)
            return f"is {kind_of(value)} and has no {wanted}"


def _copied(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _put(holder: list[JSON], at: Path, value: JSON) -> None:
    *above, last = (0, *at)
    inner: Any = holder
    for step in above:
        inner = inner[step]
    inner[last] = value
