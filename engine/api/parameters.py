"""Query parameters that do not fit: which one, what was given, what is accepted."""

from __future__ import annotations

import re
from enum import StrEnum
from types import NoneType
from typing import Any

from litestar import Response
from litestar.exceptions import ValidationException
from litestar.typing import FieldDefinition

from engine.api.answers import FieldError, InvalidFields, answer_error, shorten
from engine.api.options import ApiRequest

_MAX_ECHO = 60


class InvalidParameters(InvalidFields):
    """Pointers are `?name`."""

    code = "invalid_parameter"


def not_accepted(name: str, value: str, accepted: str) -> FieldError:
    return FieldError(f"?{name}", f'"{shorten(value, _MAX_ECHO)}" is not {accepted}')


def printable(name: str, value: str | None) -> str | None:
    """A text that is looked for in the database. Raises `InvalidParameters`."""
    if value is not None and not value.isprintable():
        raise InvalidParameters([FieldError(f"?{name}", "contains a control character")])
    return value


async def check_whole_numbers(request: ApiRequest) -> None:
    """Runs before the parameters are read: for msgspec, `1e2` and `5.0` are whole numbers, too."""
    if not request.scope["query_string"]:
        return
    wrong = [
        field
        for field in request.route_handler.parsed_fn_signature.parameters.values()
        if _kind(field) is int and _is_near_miss(request.query_params.getall(_name(field), ["0"])[-1])
    ]
    if wrong:
        raise InvalidParameters([_explained(request, field) for field in wrong])


def _is_near_miss(text: str) -> bool:
    """What is no number at all is left to those who read it, who tell of all that is wrong at once."""
    if re.fullmatch("-?[0-9]+", text):
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def answer_parameters(request: ApiRequest, error: ValidationException) -> Response[bytes]:
    """Litestar's handler for parameters that do not have the type or range of their handler's signature.

    Its own messages speak of Python's types and leave out the value.
    """
    fields = request.route_handler.parsed_fn_signature.parameters
    wrong = [fields[item["key"]] for item in error.extra or [] if isinstance(item, dict)]
    return answer_error(request, InvalidParameters([_explained(request, field) for field in wrong]))


def _explained(request: ApiRequest, field: FieldDefinition) -> FieldError:
    name = _name(field)
    return not_accepted(name, request.query_params.getall(name)[-1], _accepted(field))


def _name(field: FieldDefinition) -> str:
    return getattr(field.kwarg_definition, "name", None) or field.name


def _kind(field: FieldDefinition) -> Any:
    return next(part.annotation for part in field.inner_types or [field] if part.annotation is not NoneType)


def _accepted(field: FieldDefinition) -> str:
    kind = _kind(field)
    if issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    if kind is bool:
        return "true or false"
    limits: Any = field.kwarg_definition
    if kind is int:
        return f"a whole number from {limits.ge} to {limits.le}"
    return f"a number from {limits.ge:g} to {limits.le:g}"
