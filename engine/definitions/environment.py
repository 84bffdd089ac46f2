"""Environment variables in definitions: `${NAME}` and `${NAME:default}`, on reading YAML only.

They are put into parsed values, so that no variable can bring YAML of its own. Text without quotes is read
anew, so that `retry_count: ${RETRIES:3}` is a number. `$${NAME}` is left alone, and so is a name that is not
set and has no default, or that is a parameter of the workflow: it is a placeholder then.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from engine.definitions.source import Document, Path, parse, scalar
from engine.errors import Fault
from engine.model.json import JSON
from engine.model.placeholders import MAX_INSERTED

DEFAULTS = {"ENV": "dev"}

_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_]\w*)(?::([^}]*))?\}")


def has_variable(text: str, declared: Collection[str] = ()) -> bool:
    """Whether something in `text` could be replaced, where `declared` are the workflow's parameters."""
    return any(found[2] is not None or found[1] not in declared for found in _VARIABLE.finditer(text))


def named_in(texts: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that could be put into definitions."""
    names = {name for text in texts for document in parse(text) for name in _variables(document)}
    return {name: environment[name] for name in sorted(names) if name in environment}


def _variables(document: Document) -> Iterator[str]:
    for path in document.texts:
        if isinstance(value := _get(document.value, path), str):
            declared = _declared(document.value, path)
            for found in _VARIABLE.finditer(value):
                if found[2] is not None or found[1] not in declared:
                    yield found[1]


def expand(document: Document, environment: Mapping[str, str]) -> None:
    """Put variables into the values of `document`."""
    left = MAX_INSERTED
    for path, is_plain in document.texts.items():
        value = _get(document.value, path)
        if not isinstance(value, str):  # the first value of a key that appears twice
            continue
        text = replaced(value, environment, _declared(document.value, path))
        left -= max(0, len(text) - len(value))
        if left < 0:
            document.faults.append(Fault(path, f"variables add more than {MAX_INSERTED} characters"))
            return
        try:
            _put(document, path, scalar(text) if is_plain and text != value else text)
        except ValueError as error:
            document.faults.append(Fault(path, str(error)))


def replaced(text: str, environment: Mapping[str, str], declared: Collection[str] = ()) -> str:
    def value_of(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if default is None and name in declared:
            return found[0]
        return environment.get(name, DEFAULTS.get(name, found[0]) if default is None else default)

    return _VARIABLE.sub(value_of, text)


def _declared(value: JSON, path: Path) -> Collection[str]:
    """The parameters of the workflow that `path` leads into."""
    match path:
        case "workflows", "definitions", int(index), *_:
            params = _get(value, ("workflows", "definitions", index, "params"))
            return params if isinstance(params, dict) else ()
        case _:
            return ()


def _get(value: Any, path: Path) -> JSON:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step]
        else:
            return None
    return value


def _put(document: Document, path: Path, value: JSON) -> None:
    if not path:
        document.value = value
        return
    holder: Any = _get(document.value, path[:-1])
    holder[path[-1]] = value
