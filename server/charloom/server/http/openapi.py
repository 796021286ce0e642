"""GET /openapi.json: the routes and their bodies as a document of OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from charloom.server.http.app import Route
from charloom.server.http.exchange import REQUEST_ID_HEADER, Exchange, json_of
from charloom.server.http.problems import ErrorForm, error_form
from charloom.server.http.response_schemas import ERROR, INFERENCE_ERROR
from charloom.server.identity.scopes import ROUTES

REFERENCE = "#/components/schemas/{model}"


class Document:
    """Answers requests for the document.

    Args:
        routes: all others
    """

    def __init__(self, routes: Sequence[Route], version: str) -> None:
        self._content = json_of(document_of(routes, version))

    async def answer(self, exchange: Exchange, body: None) -> None:
        """The document."""
        await exchange.answer(self._content)


def document_of(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The document of some routes."""
    bodies = [(route.body, "validation") for route in routes if route.body is not None]
    schemas = models_json_schema(bodies, ref_template=REFERENCE)[1].get("$defs", {})  # type: ignore[arg-type]
    for schema in schemas.values():
        _allow_null(schema)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Charloom",
            "version": version,
            "description": "Text from recurrent networks over HTTP. A field that is null counts as left out.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, ErrorForm.OPENAI.value: ERROR, ErrorForm.OPEN_INFERENCE.value: INFERENCE_ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _allow_null(schema: dict[str, Any]) -> None:
    """Null counts as left out, wherever something may be left out."""
    needed = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        if name not in needed and {"type": "null"} not in part.get("anyOf", ()):
            kept = {key: part.pop(key) for key in ("title", "description", "default") if key in part}
            schema["properties"][name] = {"anyOf": [dict(part), {"type": "null"}], **kept}


def _operation(route: Route) -> dict[str, Any]:
    scope = ROUTES[route.name]
    content: dict[str, Any] = {"application/json": {"schema": route.response_schema}}
    if route.other_content_type:
        content[route.other_content_type] = {}
    error = REFERENCE.format(model=error_form(route.path).value)
    refusal = {"content": {"application/json": {"schema": {"$ref": error}}}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", route.name).strip("_"),
        "summary": route.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": _NAME}
                for name in _PARAMETER.findall(route.path)
            ),
            *({"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()),
            {
                "name": REQUEST_ID_HEADER,
                "in": "header",
                "schema": {"type": "string"},
                "description": "a name of the call",
            },
        ],
        "responses": {
            str(route.status): {"description": route.summary, "content": content},
            "4XX": {"description": "The request is at fault, or comes too soon", **refusal},
            "5XX": {"description": "The server is at fault, or stops", **refusal},
        },
        "security": [] if scope is None else [{}, {"key": []}],  # a server may ask nobody
    }
    if scope is not None:
        operation["description"] = f"Needs a key with the scope `{scope.value}` where the server asks who calls."
    if route.body is not None:
        schema = {"$ref": REFERENCE.format(model=route.body.__name__)}
        operation["requestBody"] = {"required": route.body_needed, "content": {"application/json": {"schema": schema}}}
    return operation


_PARAMETER = re.compile(r"{(\w+)}")
_NAME = {"type": "string", "minLength": 1}
