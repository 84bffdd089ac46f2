"""What an expression's text says, without running it: the names it reads, and how large it is.

The text is parsed, not type-checked: parsing is linear and bounded, while types can double in size with
every macro. Parsing is safe in any process; evaluation is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from cel_expr_python import cel

from engine.errors import InvalidExpression
from engine.expressions.wire import fields, integer, nested, text

MAX_CHARACTERS = 4_000  # parsing the worst text of that length takes 32 ms, a usual condition 0.03 ms
MAX_NODES = 1_000  # after macros such as `map` have been written out
MAX_DEPTH = 32  # the library's own bound, on nesting as on chains such as `1 + 1 + …` and `a.b.c…`
TASKS = "tasks"
PARAMS = "params"

_TYPES = {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
_INDEX = "_[_]"
_PARSER = cel.NewEnv()

Path = tuple[str, ...]


class _Kind(IntEnum):
    """What a node is: the number of its only field besides its id, number 2."""

    CONSTANT = 3
    NAME = 4
    SELECT = 5
    CALL = 6
    LIST = 7
    STRUCT = 8
    MACRO = 9


class _Need(IntEnum):
    """What follows if a node has no value: the whole has none either, or is not true, or it may be both."""

    NONE = 0
    VALUE = 1
    TRUTH = 2


@dataclass(frozen=True, slots=True)
class Syntax:
    """`paths`: what is read, as far as it is known: `tasks.load.result[0].id` is `(tasks, load, result)`.

    `needed_params`: own parameters without which the expression is never true, whatever else there is. Those
    that it asks for itself, as in `has(params.day)`, are none of them.
    """

    paths: frozenset[Path]
    needed_params: frozenset[str]
    positions: dict[str, int]  # of each name outside macros: where in the text it stands first
    macros: int
    has_maps: bool

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset(path[1] for path in self.paths if path[0] == TASKS)


@lru_cache(maxsize=1024)
def parse(source: str) -> Syntax:
    """Raises `InvalidExpression` for what is no CEL, too large, or reads `tasks` other than by name."""
    if len(source) > MAX_CHARACTERS:
        raise InvalidExpression(f"{len(source)} characters, the limit is {MAX_CHARACTERS}")
    for place, character in enumerate(source):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise invalid("text contains NUL or half a character", source, place)
    try:
        compiled = _PARSER.compile(source, disable_check=True)
    except RuntimeError as error:
        raise syntax_error(str(error)) from None
    return _Reader(source, nested(compiled.serialize(), 2)[0]).read()


_Waiting = tuple[bytes, frozenset[str], _Need]  # a node, the names of macros around it, and what it is for


class _Reader:
    """One walk over the tree, from the outside in."""

    def __init__(self, source: str, parsed: bytes) -> None:
        self._source = source
        self._root = nested(parsed, 2)[0]
        entries = [dict(fields(entry)) for info in nested(parsed, 3) for entry in nested(info, 4)]
        self._places = {entry[1]: entry.get(2, 0) for entry in entries}  # by node id; zeros are left out
        self._paths: set[Path] = set()
        self._needed: set[Path] = set()
        self._asked: set[Path] = set()
        self._positions: dict[str, int] = {}
        self._nodes = 0
        self._macros = 0
        self._has_maps = False

    def read(self) -> Syntax:
        waiting: list[_Waiting] = [(self._root, frozenset(), _Need.TRUTH)]
        while waiting:
            node, bound, need = waiting.pop()
            if (found := _path(node)) is None:
                self._count(1)
                waiting.extend(self._children(node, bound, need))
                continue
            path, name = found
            self._count(len(path))
            if path[0] not in bound:
                self._note(path, self._place(name))
                self._note_need(path, is_asked=_is_asked(node), need=need)
        return Syntax(
            frozenset(self._paths), self._needed_params(), self._positions, self._macros, self._has_maps
        )

    def _note_need(self, path: Path, *, is_asked: bool, need: _Need) -> None:
        if is_asked:
            self._asked.add(path)
        if need:
            self._needed.add(path[:-1] if is_asked else path)

    def _needed_params(self) -> frozenset[str]:
        if (PARAMS,) in self._paths:  # it may look for names in the whole
            return frozenset()
        asked = {path[1] for path in self._asked if path[0] == PARAMS and len(path) == 2}
        return frozenset(path[1] for path in self._needed if path[0] == PARAMS and len(path) > 1) - asked

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise InvalidExpression(f"more than {MAX_NODES} parts")

    def _note(self, path: Path, place: int) -> None:
        if path[0] == TASKS and len(path) == 1:
            reason = 'tasks are read by name, as in tasks.load or tasks["load"]'
            raise invalid(reason, self._source, place)
        if path[0] not in _TYPES:
            self._paths.add(path)
            self._positions[path[0]] = min(place, self._positions.get(path[0], place))

    def _children(self, node: bytes, bound: frozenset[str], need: _Need) -> Iterator[_Waiting]:
        kind, content = _content(node)
        value = _Need.VALUE if need else _Need.NONE
        match kind:
            case _Kind.SELECT | _Kind.LIST:
                yield from _parts(content, (1,), bound, value)
            case _Kind.CALL:
                yield from self._operands(content, bound, need)
            case _Kind.STRUCT:
                if text(content, 1):
                    raise invalid("messages are not JSON", self._source, self._place(node))
                self._has_maps = True
                for entry in nested(content, 2):
                    yield from _parts(entry, (3, 4), bound, value)
            case _Kind.MACRO:
                self._macros += 1
                variables = {text(content, field) for field in (1, 3, 8)}
                yield from _parts(content, (2, 4), bound, value)
                yield from _parts(content, (5, 6, 7), bound | variables, _Need.NONE)

    def _operands(self, call: bytes, bound: frozenset[str], need: _Need) -> Iterator[_Waiting]:
        """Target, then arguments. `&&` and `||` have a value without one of theirs, if the other decides."""
        operands = [part for number in (1, 3) for part in nested(call, number)]
        value = _Need.VALUE if need else _Need.NONE
        needs: list[_Need]
        match text(call, 2):
            case "_&&_":
                needs = [need if need is _Need.TRUTH else _Need.NONE] * len(operands)
            case "_||_":
                needs = [_Need.NONE] * len(operands)
            case "_?_:_":
                needs = [value, _Need.NONE, _Need.NONE]
            case _:
                needs = [value] * len(operands)
        return ((part, bound, each) for part, each in zip(operands, needs, strict=True))

    def _place(self, node: bytes) -> int:
        place = self._places.get(integer(node, 2), 0)
        assert isinstance(place, int)
        return place


def _parts(
    message: bytes, numbers: tuple[int, ...], bound: frozenset[str], need: _Need
) -> Iterator[_Waiting]:
    return ((part, bound, need) for number in numbers for part in nested(message, number))


def _path(node: bytes) -> tuple[Path, bytes] | None:
    """The path that `node` reads and the name where it starts, if it is one of fixed keys from a name on."""
    keys: list[str] = []
    while True:
        kind, content = _content(node)
        if kind == _Kind.NAME:
            return (text(content, 1), *reversed(keys)), node
        if kind == _Kind.SELECT:
            keys.append(text(content, 2))
            node = nested(content, 1)[0]
        elif kind == _Kind.CALL and text(content, 2) == _INDEX and (key := _key(content)) is not None:
            keys.append(key)
            node = nested(content, 3)[0]
        else:
            return None


def _is_asked(node: bytes) -> bool:
    """Whether it is `has(…)` of a path."""
    kind, content = _content(node)
    return kind == _Kind.SELECT and bool(integer(content, 3))


def _content(node: bytes) -> tuple[int, bytes]:
    return next((number, value) for number, value in fields(node) if number > 2 and isinstance(value, bytes))


def _key(index: bytes) -> str | None:
    """The key, if it is a text that stands in the expression."""
    kind, constant = _content(nested(index, 3)[1])
    texts = nested(constant, 6) if kind == _Kind.CONSTANT else []
    return texts[0].decode() if texts else None


def invalid(reason: str, source: str, place: int) -> InvalidExpression:
    line = source.count("\n", 0, place) + 1
    return InvalidExpression(reason, line, place - source.rfind("\n", 0, place))


def syntax_error(message: str) -> InvalidExpression:
    """The first error of a report by the library, which draws the text around each of hundreds."""
    if "recursion" in message:
        return InvalidExpression(f"nested or chained more than {MAX_DEPTH} levels deep")
    if found := re.search(r"ERROR: <input>:(\d+):(\d+): (.*)", message):
        reason = found[3].removesuffix(" [INVALID_ARGUMENT]").replace(" (in container '')", "")
        return InvalidExpression(reason[:500], int(found[1]), int(found[2]))
    return InvalidExpression(re.sub(r"^[A-Z_]+: | \[[A-Z_]+\]$", "", message)[:500])
