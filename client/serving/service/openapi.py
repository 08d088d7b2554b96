"""The HTTP interface as an OpenAPI 3.1 description, made from `recommender.proto`, and its page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from client.serving.service import recommender_pb2 as pb
from client.serving.service.status import Code

__all__ = ["PAGE_POLICY", "describe", "page"]

_USER = {"user": "u17", "k": 3, "explain": True}
_OPERATIONS: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    (
        "recommend",
        "RecommendRequest",
        "RecommendResponse",
        "Items for one user, or for a history that is sent.",
        _USER,
    ),
    (
        "recommend-batch",
        "RecommendBatch",
        "RecommendBatchAnswer",
        "The same for up to 1,000; a request that is refused has its error in its response.",
        {"requests": [_USER]},
    ),
    (
        "similar",
        "SimilarRequest",
        "RecommendResponse",
        "Items that are like the given ones.",
        {"items": ["i3"], "k": 3},
    ),
    (
        "feedback",
        "FeedbackRequest",
        "FeedbackResponse",
        "Store what users were shown and did. Once it is answered, the events are on disk. Send "
        "each event with an id of its own: one that is sent again is stored once.",
        {"events": [{"id": "e1", "user": "u17", "item": "i3", "kind": "CHOSEN"}]},
    ),
)
_TYPES: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": ["integer", "string"], "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}


def describe() -> dict[str, Any]:
    """Return the description."""
    schemas: dict[str, Any] = {
        name: _schema(message) for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    schemas["RecommendBatch"] = _list_of("requests", "RecommendRequest")
    schemas["RecommendBatchAnswer"] = _list_of("responses", "RecommendResponse")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sotto recommender",
            "version": "1",
            "description": "Recommendations from the model as adapted at home. Fields with their "
            "default value may be left out, and are left out of answers.",
        },
        "security": [{"token": []}, {}],
        "paths": {f"/v1/{one[0]}": {"post": _operation(*one)} for one in _OPERATIONS},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    }


def _operation(
    name: str, asked: str, answered: str, summary: str, example: dict[str, Any]
) -> dict[str, Any]:
    refusals = {
        str(code.value): {"description": code.name, "content": _content("Error")} for code in Code
    }
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference(asked), "example": example}},
        },
        "responses": {"200": {"description": "OK", "content": _content(answered)}, **refusals},
    }


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(name)}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(field: str, name: str) -> dict[str, Any]:
    listed = {"type": "array", "items": _reference(name)}
    return {"type": "object", "properties": {field: listed}, "required": [field]}


def _schema(message: Descriptor) -> dict[str, Any]:
    properties = {field.name: _property(field) for field in message.fields}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(field: FieldDescriptor) -> dict[str, Any]:
    kind: dict[str, Any]
    if field.message_type is not None:
        kind = dict(_reference(field.message_type.name))
    elif field.enum_type is not None:
        kind = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    else:
        kind = dict(_TYPES[field.type])
    return {"type": "array", "items": kind} if field.is_repeated else kind


_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid currentColor; border-radius: .25rem; }
textarea { font: .9rem/1.4 ui-monospace, monospace; width: 100%; box-sizing: border-box; }
output { display: block; white-space: pre-wrap; overflow-wrap: anywhere; }
output:not(:empty) { padding: .75rem; border: 1px solid currentColor; border-radius: .25rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid; }
"""


_SCRIPT = """
for (const form of document.querySelectorAll('form[data-path]')) {
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const shown = form.querySelector('output'), token = document.getElementById('token').value;
    const headers = {'Content-Type': 'application/json'};
    if (token) headers.Authorization = 'Bearer ' + token;
    shown.textContent = 'sent';
    try {
      const body = form.querySelector('textarea').value;
      const answer = await fetch(form.dataset.path, {method: 'POST', headers, body});
      const fields = JSON.stringify(await answer.json(), null, 2);
      shown.textContent = answer.status + ' ' + fields;
    } catch (error) {
      shown.textContent = 'no answer: ' + error.message;
    }
  });
}
"""
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
PAGE_POLICY = (
    f"default-src 'none'; script-src 'sha256-{_HASH}'; style-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: its own script, and requests to this service alone."""


def page(description: dict[str, Any]) -> str:
    """Return the description as a page of HTML that loads nothing, and sends what is typed."""
    escape = html.escape
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(description['info']['title'])}</title><style>{_STYLE}</style></head>",
        f"<body><main><h1>{escape(description['info']['title'])}</h1>",
        f"<p>{escape(description['info']['description'])}</p>",
        "<p>For programs: <a href='/openapi.json'>openapi.json</a>. Whether it runs: ",
        "<a href='/healthz'>healthz</a>; whether it takes requests: <a href='/readyz'>readyz</a>.",
        "</p><p><label for='token'>Bearer token, where the service asks for one:</label> ",
        "<input id='token' type='password' autocomplete='off'></p>",
    ]
    for path, methods in description["paths"].items():
        operation = methods["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        command = (
            f"curl -H 'Content-Type: application/json' -d '{json.dumps(example)}' \\\n"
            f"    http://127.0.0.1:9471{path}"
        )
        parts += [
            f"<h2 id='{escape(operation['operationId'])}'>POST {escape(path)}</h2>",
            f"<p>{escape(operation['summary'])}</p><pre>{escape(command)}</pre>",
            f"<form data-path='{escape(path)}'><p><label>Request<textarea rows='3' ",
            f"spellcheck='false'>{escape(json.dumps(example))}</textarea></label></p>",
            "<p><button>Send</button></p><output aria-live='polite'></output></form>",
        ]
    parts.append("<h2>Objects</h2>")
    for name, schema in description["components"]["schemas"].items():
        rows = "".join(
            f"<tr><td><code>{escape(field)}</code></td><td>{_shown(kind)}</td></tr>"
            for field, kind in schema["properties"].items()
        )
        parts.append(
            f"<h3 id='{escape(name)}'>{escape(name)}</h3><table><thead><tr><th>field</th>"
            f"<th>type</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    return "".join([*parts, f"</main><script>{_SCRIPT}</script></body></html>"])


def _shown(kind: dict[str, Any]) -> str:
    """Return a type in words, with a link to an object's own table."""
    if "items" in kind:
        return f"list of {_shown(kind['items'])}"
    if "$ref" in kind:
        name = html.escape(kind["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "enum" in kind:
        return html.escape(", ".join(kind["enum"]))
    types = kind["type"]
    return html.escape(types if isinstance(types, str) else " or ".join(types))
