"""What comes before a task of a workflow runs: its condition, and its parameters put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from engine.errors import ExpressionError, InvalidExpression, InvalidInput
from engine.expressions.evaluator import Evaluator
from engine.expressions.syntax import parse
from engine.model.inputs import Inputs, apply
from engine.model.json import JSON
from engine.model.outcomes import Declined, Failed
from engine.model.records import Lease

Upstream = Callable[[Sequence[str]], Awaitable[Mapping[str, JSON]]]


async def prepare(lease: Lease, upstream: Upstream, evaluator: Evaluator) -> JSON | Declined | Failed:
    """The parameters to run with; or how the attempt ends without running.

    What is missing or wrong will be so at the next try as well: it fails for good.
    """
    inputs = Inputs.from_json(lease.inputs)
    try:
        read = parse(inputs.condition).tasks if inputs.condition else frozenset[str]()
        results = await upstream(sorted({*inputs.tasks, *read}))
        params, lack = _applied(inputs, lease.params, results)
        if inputs.condition and not await _holds(inputs.condition, params, inputs, results, evaluator):
            return Declined(f"condition does not hold: {inputs.condition}")
        if lack is not None:
            raise lack
        return params
    except (ExpressionError, InvalidExpression) as error:
        return Failed(f"condition: {error}", code="condition_failed", source="scheduler", is_permanent=True)
    except InvalidInput as error:
        return Failed(str(error), code="invalid_params", source="scheduler", is_permanent=True)


def _applied(inputs: Inputs, params: JSON, results: Mapping[str, JSON]) -> tuple[JSON, InvalidInput | None]:
    """The parameters to run with, or those there are and why: a condition that does not hold goes first."""
    try:
        return apply(inputs, params, results), None
    except InvalidInput as error:
        return params, error


async def _holds(
    text: str, params: JSON, inputs: Inputs, results: Mapping[str, JSON], evaluator: Evaluator
) -> bool:
    tasks: dict[str, Any] = {name: {"result": result} for name, result in results.items()}
    own = params
    for step in inputs.at:
        own = own.get(step) if isinstance(own, Mapping) else None
    bare = {name: (own or {}).get(name) for name in inputs.names}
    return await evaluator.condition(text, {**bare, "params": own or {}, "tasks": tasks})
