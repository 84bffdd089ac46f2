"""OpenAPI: what Litestar cannot see for itself, and a page that shows the document without any script."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody

from engine.api.answers import Problem, is_execgo, is_workflows
from engine.api.options import ApiRequest

_REFERENCE = "#/components/schemas/{}"
_WORDS = {
    400: "The request cannot be understood",
    401: "No valid token",
    403: "Not allowed",
    404: "Not found",
    409: "Its state forbids that",
    413: "The body is too large",
    422: "Understood, but it breaks a rule",
    503: "Not able now; `Retry-After` says when to try again",
}
PROBLEM_TYPE = "application/problem+json"
YAML = "application/yaml"
# Answers that are JSON or, if asked for, this.
_ALSO = {"/metrics": "text/plain", "/api/v1/workflows/{workflow_id}/versions/{version}": YAML}
_SCHEMA_OF = {"text/plain": {"type": "string"}, YAML: {"type": "object"}}  # what a client reads out of it


def refusals(model: type[Any], *statuses: int) -> dict[int, ResponseSpec]:
    """The documented refusals of a route, in the shape of its contract."""
    media_type = PROBLEM_TYPE if model is Problem else "application/json"
    return {
        status: ResponseSpec(
            model, description=_WORDS[status], media_type=media_type, generate_examples=False
        )
        for status in statuses
    }


def body_operation(schema: str) -> type[Operation]:
    """Documents the body of a route that decodes it itself; `schema` names one of `body_schemas`."""

    @dataclass
    class BodyOperation(Operation):
        def __post_init__(self) -> None:
            content = OpenAPIMediaType(schema=Reference(ref=_REFERENCE.format(schema)))
            self.request_body = RequestBody(content={"application/json": content}, required=True)

    return BodyOperation


def struct_schemas(structs: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """JSON schemas of request bodies that msgspec decodes, by name."""
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    for name, required in _REQUIRED.items():
        schemas[name]["required"] = required  # optional to the decoder, so that the contract words the error
    return schemas


_REQUIRED = {
    "GraphIn": ["tasks"],
    "TaskIn": ["id", "type"],
    "AdapterRequestIn": ["action"],
    "AdapterActionIn": ["kind"],
}


# --- the finished document


class Completion:
    """Adds to Litestar's document what it cannot know: request bodies, refusals of every route, headers."""

    def __init__(self, schemas: dict[str, Any], *, require_token: bool) -> None:
        self._schemas = schemas
        self._security: list[dict[str, list[str]]] = [{"token": []}] if require_token else []
        self._done: dict[str, Any] | None = None

    def of(self, document: dict[str, Any]) -> dict[str, Any]:
        if self._done is None:
            self._done = self._completed(document)
        return self._done

    def _completed(self, document: dict[str, Any]) -> dict[str, Any]:
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(self._schemas)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        if self._security:
            document["security"] = self._security
        for path, item in document["paths"].items():
            for method, operation in item.items():
                _complete(path, method, operation)
        return document


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    name, media_type = _refusal_of(path)
    refusal = {"schema": {"$ref": _REFERENCE.format(name)}}
    operation["responses"]["default"] = {
        "description": "Refused: host or origin, token, size, method",
        "content": {media_type: refusal},
    }
    answers = operation["responses"].get("200", {}).get("content", {})
    if path in _ALSO:
        answers[_ALSO[path]] = {}
    for answer_type in answers.keys() & _SCHEMA_OF.keys():
        answers[answer_type] = {"schema": _SCHEMA_OF[answer_type]}
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    if (method, path) in _KEYED:
        parameters.append(_IDEMPOTENCY_KEY)


def _refusal_of(path: str) -> tuple[str, str]:
    if is_execgo(path):
        return "ErrorBody", "application/json"
    return ("EnvelopeBody", "application/json") if is_workflows(path) else ("Problem", PROBLEM_TYPE)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or not; it is never null."""
    options = [option for option in schema.get("oneOf", []) if option != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("oneOf", "default") or value is None}
    return {**rest, **options[0]} if len(options) == 1 else schema


_KEYED = frozenset(
    {("post", "/tasks"), ("post", "/api/v1/runs"), ("post", "/api/v1/workflows/{workflow_id}/execute")}
)
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the request safe to repeat for a day: the same key and body give the same run",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
}


class DocumentFile(JsonRenderPlugin):
    def __init__(self, completion: Completion) -> None:
        super().__init__()
        self._completion = completion

    def render(self, request: ApiRequest, openapi_schema: dict[str, Any]) -> bytes:
        return self.render_json(request, self._completion.of(openapi_schema))


# --- the page


class OfflinePage(OpenAPIRenderPlugin):
    """The document as plain HTML: works without network, scripts and cookies."""

    def __init__(self, completion: Completion) -> None:
        super().__init__(path="/")
        self._completion = completion

    def render(self, request: ApiRequest, openapi_schema: dict[str, Any]) -> bytes:
        return page(self._completion.of(openapi_schema)).encode()


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "summary{cursor:pointer;padding:.35rem 0}code,pre{font:13px/1.45 ui-monospace,monospace}"
    "pre{background:#f5f5f5;padding:.7rem;overflow:auto}b{display:inline-block;min-width:4.5rem}"
    "h2{margin-top:2rem;border-bottom:1px solid #ddd}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
)


def page(document: dict[str, Any]) -> str:
    info = document.get("info", {})
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(info.get('title'))}</title>",
        f"<style>{_STYLE}</style><h1>{_text(info.get('title'))} {_text(info.get('version'))}</h1>",
        f"<p>{_text(info.get('description'))}</p>",
        '<p>The document itself: <a href="/schema/openapi.json">openapi.json</a></p>',
    ]
    for tag, operations in sorted(_by_tag(document).items()):
        parts.append(f"<h2>{_text(tag)}</h2>")
        parts += [_operation(*operation) for operation in operations]
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        parts.append(
            f"<details id={_text(name)}><summary><code>{_text(name)}</code></summary>"
            f"{_json(schema)}</details>"
        )
    return "\n".join(parts) + "</html>\n"


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, item in document.get("paths", {}).items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                tag = (operation.get("tags") or ["Other"])[0]
                found.setdefault(tag, []).append((method.upper(), path, operation))
    return found


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{_text(parameter['name'])}</code><td>{_text(parameter.get('in'))}"
        f"<td>{_text(parameter.get('description'))} <code>{_text(_plain(parameter.get('schema')))}</code>"
        for parameter in operation.get("parameters") or []
    ]
    answers = [
        f"<tr><td><code>{_text(status)}</code><td>{_text(answer.get('description'))}<td>{_content(answer)}"
        for status, answer in operation.get("responses", {}).items()
    ]
    body = operation.get("requestBody")
    return (
        f"<details><summary><b>{_text(method)}</b> <code>{_text(path)}</code> "
        f"{_text(operation.get('summary'))}</summary><p>{_text(operation.get('description'))}</p>"
        + (f"<p>Body: {_content(body)}</p>" if body else "")
        + (f"<table>{''.join(rows)}</table>" if rows else "")
        + f"<table>{''.join(answers)}</table></details>"
    )


def _content(part: dict[str, Any]) -> str:
    return ", ".join(
        f"{_text(media_type)} {_link(value.get('schema', {}))}"
        for media_type, value in (part.get("content") or {}).items()
    )


def _link(schema: dict[str, Any]) -> str:
    items = schema.get("items")
    if isinstance(items, dict):
        return f"array of {_link(items)}"
    reference = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{_text(reference)}">{_text(reference)}</a>' if reference else _text(schema.get("type"))


def _plain(schema: Any) -> str:
    return msgspec.json.encode(schema).decode() if schema else ""


def _json(value: Any) -> str:
    return f"<pre>{_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))
