"""What a function is called with: its annotated arguments, filled from JSON by pydantic."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json, to_jsonable_python
from typing_extensions import TypedDict

from engine.errors import ConfigError, InvalidArguments
from engine.functions.context import BaseContext
from engine.model.json import JSON

CONTEXT_NAMES = ("ctx", "context")
MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Signature:
    """`context` is the name of the argument that gets the context.

    An argument takes it that is annotated `Context` or `SyncContext`, or that has no annotation and is
    called `ctx` or `context`.
    """

    context: str | None
    names: tuple[str, ...]  # of all other arguments
    expected: Mapping[str, str]  # the annotation of each, as it was written
    takes_any: bool  # names that are not among `names`, too: for `**kwargs`, or to be read from the context
    passes_any: bool  # and they are passed on, as `**kwargs`
    adapter: TypeAdapter[dict[str, Any]]
    defaults: Mapping[str, JSON]  # those that are JSON, for the schema

    @classmethod
    def of(cls, call: Callable[..., Any], where: str) -> Signature:
        """Raises `ConfigError` for arguments that cannot be filled from JSON; `where` says which function."""
        parameters, hints = _read(call, where)
        context = _context(parameters, hints, where)
        named = {
            name: parameter
            for name, parameter in parameters.items()
            if name != context and parameter.kind is not parameter.VAR_KEYWORD
        }
        extra = next((name for name, each in parameters.items() if each.kind is each.VAR_KEYWORD), None)
        takes_any = extra is not None or (context is not None and not named)
        types = {name: _typed(hints.get(name, Any), each.default) for name, each in named.items()}
        return cls(
            context=context,
            names=tuple(named),
            expected={name: _shown(each.annotation, hints.get(name)) for name, each in named.items()},
            takes_any=takes_any,
            passes_any=extra is not None,
            adapter=_adapter(types, named, hints.get(extra or "", Any) if takes_any else None, where),
            defaults=dict(_defaults(named)),
        )

    def fill(self, params: Mapping[str, JSON]) -> dict[str, Any]:
        """Typed arguments by name. An argument that is not in `params` is left to its default.

        Raises `InvalidArguments`.
        """
        try:
            filled = self._validated(dict(params))
        except ValidationError as error:
            problems = [self._problem(each) for each in error.errors(include_url=False)]
            raise invalid(problems) from None
        if self.passes_any:
            return filled
        return {name: value for name, value in filled.items() if name in self.names}

    def problems(
        self, params: Mapping[str, JSON], is_open: Callable[[JSON], bool], later: Collection[str] = ()
    ) -> list[dict[str, str]]:
        """What is wrong already. Values that `is_open` says yes to, and those called `later`, come yet."""
        known = {name: value for name, value in params.items() if not is_open(value)}
        come = [name for name in params if name not in known]
        found: list[dict[str, str]] = []
        if not self.takes_any:
            unknown = [name for name in come if name not in self.names]
            found += ({"path": name, "message": f"unknown{_near(name, self.names)}"} for name in unknown)
        try:
            self._validated(known)
        except ValidationError as error:
            found += (
                self._problem(each)
                for each in error.errors(include_url=False)
                if each["type"] != "missing" or each["loc"] not in {(name,) for name in (*come, *later)}
            )
        return found

    def _validated(self, params: dict[str, JSON]) -> dict[str, Any]:
        try:
            return self.adapter.validate_python(params)
        except ValidationError as error:
            try:
                document = to_json(params)
            except ValueError:  # no JSON: whoever stores it says so
                raise error from None
        # Only here do strict types take a text for a date, a list for a set. Not at first: it is slower, and
        # chooses otherwise between the types of a union.
        return self.adapter.validate_json(document)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the parameters."""
        schema = self.adapter.json_schema()
        schema.pop("title", None)
        for name, default in self.defaults.items():
            schema["properties"][name]["default"] = default
        return schema

    def _problem(self, error: ErrorDetails) -> dict[str, str]:
        where = error["loc"]
        path = ".".join(map(str, where))
        message = error["msg"]
        if error["type"] == "missing":
            expected = self.expected.get(str(where[0])) if len(where) == 1 else None
            message = f"missing, expected {expected}" if expected else "missing"
        elif error["type"] == "extra_forbidden":
            message = f"unknown{_near(path, self.names)}"
        return {"path": path, "message": message}


def invalid(problems: list[dict[str, str]], intro: str = "invalid params") -> InvalidArguments:
    """An error that tells the first problems, and has all of them."""
    told = [f"{each['path']}: {each['message']}" for each in problems[:MAX_PROBLEMS]]
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return InvalidArguments(f"{intro}: {'; '.join([*told, *more])}", tuple(problems))


def plain(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it was written, below decorators and `partial`."""
    inner = inspect.unwrap(call)
    return plain(inner.func) if isinstance(inner, partial) else inner


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f" (accepted: {', '.join(known) or 'none'})"


def _read(call: Callable[..., Any], where: str) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
    try:
        parameters = inspect.signature(call).parameters
        hints = _hints(plain(call))
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: its signature cannot be read: {error}; annotations must be names that are known at "
            "the top of its module"
        ) from None
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigError(f"{where}: argument {name} cannot be given by name, as all arguments are")
    return parameters, hints


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    """Of its arguments. What it returns may have a type that only type checkers know."""
    function = call if inspect.isroutine(call) else type(call).__call__
    written = getattr(function, "__annotations__", {})
    arguments = {name: hint for name, hint in written.items() if name != "return"}
    type_params = getattr(function, "__type_params__", ())
    holder = SimpleNamespace(__annotations__=arguments, __wrapped__=function, __type_params__=type_params)
    return get_type_hints(holder, include_extras=True)


def _context(parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], where: str) -> str | None:
    found = [name for name in parameters if _is_context(name, hints.get(name, _NONE))]
    if len(found) > 1:
        raise ConfigError(f"{where}: several arguments take the context: {', '.join(found)}")
    return found[0] if found else None


def _is_context(name: str, hint: Any) -> bool:
    return name in CONTEXT_NAMES if hint is _NONE else _holds_context(hint)


def _holds_context(hint: Any) -> bool:
    """Also `Annotated[Context | None, …]`."""
    if isinstance(hint, type) and issubclass(hint, BaseContext):
        return True
    return any(map(_holds_context, get_args(hint)))


_NONE = object()


def _typed(hint: Any, default: Any) -> Any:
    """With what `Field(…)` says, be it in the annotation or instead of a default."""
    if isinstance(default, FieldInfo):
        return Annotated[hint, default]
    if default is not inspect.Parameter.empty and not FieldInfo.from_annotation(hint).is_required():
        return Annotated[hint, Field(default=default)]  # the nearer one counts
    return hint


def _adapter(
    types: Mapping[str, Any], named: Mapping[str, inspect.Parameter], extra: Any, where: str
) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict, since a model could not have arguments called `copy` or `_x`.
    fields = {
        name: NotRequired[kind] if _is_optional(kind, named[name].default) else kind
        for name, kind in types.items()
    }
    more = {} if extra is None else {"extra_items": extra}
    make: Any = TypedDict
    arguments = make("Arguments", fields, **more)
    if extra is None:
        arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    for name, kind in types.items():
        _refuse_alias(name, kind, where)
    try:
        return TypeAdapter(arguments)
    except PydanticUserError as error:  # of a type that JSON cannot give
        for name, kind in types.items():
            _require_json(name, kind, where)
        raise ConfigError(f"{where}: {error.message.splitlines()[0]}") from None


def _is_optional(kind: Any, default: Any) -> bool:
    if default is inspect.Parameter.empty or isinstance(default, FieldInfo):
        return not FieldInfo.from_annotation(kind).is_required()
    return True


def _refuse_alias(name: str, kind: Any, where: str) -> None:
    alias = FieldInfo.from_annotation(kind).validation_alias
    if alias is not None:
        raise ConfigError(f"{where}: argument {name} has an alias, {alias!r}; it is given by its own name")


def _require_json(name: str, kind: Any, where: str) -> None:
    try:
        TypeAdapter(kind)
    except PydanticUserError:
        raise ConfigError(
            f"{where}: argument {name} has a type that JSON cannot give: {_shown(kind, kind)}; services come "
            "from the context: ctx.get_dependency(key)"
        ) from None


def _shown(annotation: Any, hint: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any JSON"
    if isinstance(annotation, str):  # `from __future__ import annotations`
        return annotation
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _defaults(named: Mapping[str, inspect.Parameter]) -> Iterable[tuple[str, JSON]]:
    for name, parameter in named.items():
        if parameter.default is not parameter.empty and not isinstance(parameter.default, FieldInfo):
            try:
                yield name, to_jsonable_python(parameter.default)
            except (PydanticSerializationError, ValueError):
                continue  # the schema says nothing of it
