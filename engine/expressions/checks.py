"""What is known about an expression before it runs: whether it is allowed, and which tasks it reads."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from cel_expr_python import cel

from engine.errors import InvalidExpression
from engine.expressions.syntax import PARAMS, TASKS, Syntax, invalid, parse, syntax_error
from engine.model.workflow_references import Reads

_STANDARD = frozenset({cel.Type.BOOL.name(), cel.Type.DYN.name()})


def check(text: str, *, names: Collection[str], is_condition: bool = False) -> None:
    """Raise `InvalidExpression` unless `text` can be evaluated with values for `names`.

    Values have no types yet, so `params.day + 1` passes; `1 + "a"` does not, nor an unknown function, nor a
    condition that cannot be true or false.
    """
    syntax = parse(text)
    for name, place in sorted(syntax.positions.items(), key=lambda item: item[1]):
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise invalid(f"unknown name: {name} (known: {known})", text, place)
    if _has_small_types(syntax):
        _check_types(text, frozenset(syntax.positions), is_condition)


def references(text: str) -> frozenset[str]:
    """The tasks that `text` reads, as in `tasks.load` and `tasks["load"]`; nothing else reaches one."""
    return parse(text).tasks


def reads_of(condition: str) -> Reads:
    """What the condition of a workflow's task reads. Raises `InvalidExpression`."""
    try:
        check(condition, names=(PARAMS, TASKS), is_condition=True)
    except InvalidExpression as error:
        if "at: '$" not in error.reason:
            raise
        advice = "; here names stand without ${…}, as in params.day and tasks.load.result"
        raise InvalidExpression(error.reason + advice, error.line, error.column) from None
    syntax = parse(condition)
    return Reads(syntax.tasks, syntax.needed_params)


def _has_small_types(syntax: Syntax) -> bool:
    """`[1].map(a, {a: a}).map(a, {a: a})…`: each step doubles the type, 20 of them fill the memory."""
    return not (syntax.has_maps and syntax.macros > 1)


def _check_types(text: str, names: frozenset[str], is_condition: bool) -> None:
    try:
        compiled = _typed(names).compile(text)
    except RuntimeError as error:
        raise syntax_error(str(error)) from None
    if is_condition and (kind := compiled.return_type().name()) not in _STANDARD:
        raise InvalidExpression(f"a condition is true or false, this is of type {kind.lower()}")


@lru_cache(maxsize=64)
def _typed(names: frozenset[str]) -> cel.Env:
    return cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))
