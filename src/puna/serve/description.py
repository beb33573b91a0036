"""The OpenAPI description of this server: its routes, its errors, and the limits that its settings set.

In: an app. Out: JSON. Must never happen: a description that promises what the server refuses.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from puna.serve.settings import Settings

# OpenAPI 3.1 has no word for a stream of events; readers take the schema for that of each event, as the browser gets it.
_EVENTS = {
    "schema": {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}


def description(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, made once, but without its own 422, which no route here answers; errors are JSON whatever the route's own
    type is; with the settings' limits, and with the key where the server has one.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    settings: Settings = app.state.settings
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for operation in [operation for path in made["paths"].values() for operation in path.values()]:
        operation["responses"].pop("422", None)
        for status, response in operation["responses"].items():
            if status >= "400":
                response["content"] = _ERROR
            elif "text/event-stream" in response.get("content", {}):
                response["content"]["text/event-stream"] = _EVENTS
    schemas = made["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for schema in schemas.values():
        _limit(schema.get("properties", {}), settings)
    if settings.key is not None:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    app.openapi_schema = made
    return made


def _limit(properties: dict[str, Any], settings: Settings) -> None:
    """Write the settings' limits into the fields that they are about, unless a lower one stands there."""
    if not {"model", "stream"} <= set(
        properties
    ):  # a request for replies; its parts and the other requests have none of these
        return
    whole = {"n": settings.n, "best_of": settings.n, "max_tokens": settings.max_tokens, "max_completion_tokens": settings.max_tokens,
             "max_output_tokens": settings.max_tokens}  # fmt: skip
    lists = {"stop": settings.stops, "messages": settings.messages, "tools": settings.tools}
    for name, field in properties.items():
        for schema in _branches(field):
            if name in whole and schema.get("type") == "integer":
                schema["maximum"] = min(schema.get("maximum", whole[name]), whole[name])
            elif name in lists and schema.get("type") == "array":
                schema["maxItems"] = min(schema.get("maxItems", lists[name]), lists[name])
            if name == "stop":
                for text in (schema, schema.get("items", {})):
                    if text.get("type") == "string":
                        text["maxLength"] = settings.stop_characters


def _branches(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield field
    yield from field.get("anyOf", [])
