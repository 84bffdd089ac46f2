"""What stands for results and parameters while a workflow is written: handles, and their placeholders."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from keyword import iskeyword
from typing import Any, NoReturn

from engine.errors import GraphError
from engine.model.json import JSON
from engine.model.placeholders import Reference, parse

_WHEN = "`.options(when=…)` does, at the right time"
_CALCULATE = "calculate with it (a task can, or `.options(when=…)`)"


def _refusing(wish: str) -> Callable[..., NoReturn]:
    def refuse(self: Handle, *_: object) -> NoReturn:
        raise GraphError(f"{self._path} is only known when the workflow runs; a workflow cannot {wish}")

    return refuse


class Handle:
    """The result of a call, before there is one. `handle["field"]` and `handle.field` are parts of it.

    It cannot be looked into: what depends on the value itself belongs into a task, or into `when`.
    """

    __slots__ = ("_path", "_root")

    def __init__(self, root: Any, path: str) -> None:
        self._root = root  # the call's builder
        self._path = path  # tasks.load.result.rows

    def __getitem__(self, key: str | int) -> Handle:
        return Handle(self._root, self._path + step_text(key))

    def __getattr__(self, name: str) -> Handle:
        if name.startswith("_"):  # what Python itself looks for
            raise AttributeError(name)
        return self[name]

    def __await__(self) -> Generator[None, None, Handle]:
        """`await extract(day)` reads the same in an `async def` workflow; it does not wait."""
        return self
        yield

    def __str__(self) -> str:
        return f"${{{{ {self._path} }}}}"

    def __format__(self, form: str) -> str:
        if form:
            raise GraphError(
                f"{self._path} is only known when the workflow runs; a task can write it as {form}"
            )
        return str(self)

    def __repr__(self) -> str:
        return f"<result {self._path}>"

    # Each of these would answer without a value, and build another graph than was meant.
    __iter__ = _refusing("go through it")
    __len__ = _refusing("count it")
    __bool__ = _refusing(f"ask whether it is true ({_WHEN})")
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refusing(f"compare it ({_WHEN})")
    __contains__ = _refusing(f"ask what it holds ({_WHEN})")
    __hash__ = _refusing(f"look it up ({_WHEN}) or put it into a set (a list takes it)")
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = _refusing(_CALCULATE)
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = _refusing(
        _CALCULATE
    )
    __neg__ = __abs__ = __round__ = __int__ = __float__ = __index__ = _refusing(_CALCULATE)


def step_text(key: str | int) -> str:
    """One step of a path: `.rows`, `[0]`, `["a key"]`."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise GraphError(f"a field of a result is a text or a position, got {type(key).__name__}")
    if isinstance(key, int):
        if key < 0:
            raise GraphError(f"positions in a result count from 0, got {key}")
        return f"[{key}]"
    is_plain = key.replace("-", "_").isidentifier() and not key.startswith("-")
    return f".{key}" if is_plain else f"[{json.dumps(key, ensure_ascii=False)}]"


def expression(reference: Reference, arguments: Mapping[str, JSON]) -> str:
    """The same in CEL, where a hyphen would be a minus, and `params` are the task's own `arguments`."""
    if reference.task is not None:
        return "".join(("tasks", *map(_cel_step, (reference.task, "result", *reference.steps))))
    return "".join(("params", *map(_cel_step, _as_argument(reference, arguments))))


def _as_argument(reference: Reference, arguments: Mapping[str, JSON]) -> tuple[str | int, ...]:
    """Where the task itself gets this part of a parameter of the workflow."""
    for name, value in arguments.items():
        match [*_references_in(value)] if isinstance(value, str) else []:
            case [given] if given.text == value and given.task is None:
                if reference.steps[: len(given.steps)] == given.steps:
                    return (name, *reference.steps[len(given.steps) :])
    raise GraphError(
        f"when reads the parameter {reference.param} of the workflow, "
        "so the task has to be given it as an argument"
    )


def _cel_step(step: str | int) -> str:
    if isinstance(step, str) and step.isascii() and step.isidentifier() and not _is_reserved(step):
        return f".{step}"
    return f"[{json.dumps(step, ensure_ascii=False)}]"


def _is_reserved(word: str) -> bool:
    return iskeyword(word) or word in _CEL_WORDS


_CEL_WORDS = frozenset(
    ("const", "false", "function", "let", "loop", "namespace", "null", "package", "true", "var", "void")
)


def is_open(value: JSON) -> bool:
    """Whether a part of it is only known when the workflow runs."""
    return any(True for _ in _references_in(value))


def tasks_in(value: JSON) -> list[str]:
    """Whose results it refers to."""
    return [reference.task for reference in _references_in(value) if reference.task is not None]


def _references_in(value: JSON) -> Iterator[Reference]:
    if isinstance(value, str):
        yield from (part for part in parse(value) if isinstance(part, Reference))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references_in(item)
