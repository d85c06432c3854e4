"""OpenAPI document of the features app, written by hand: its routes use no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_ID: Schema = {"oneOf": [{"type": "integer"}, _TEXT]}
_NOW: Schema = _TEXT | {
    "format": "date-time",
    "description": "As-of time; by default now, or as records were written.",
}


def _list_of(items: Schema, **more: Any) -> Schema:
    return {"type": "array", **more, "items": items}


def _object(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    schema = {"type": "object", "properties": dict(properties)}
    return schema | {"required": list(required)} if required else schema


def _results(required: Sequence[str]) -> Schema:
    return _list_of({"type": "object", "required": list(required)})


_ROWS: Mapping[str, Schema] = {
    "feature_set": _TEXT,
    "rows": _list_of(_OBJECT, minItems=1),
}
_SOURCE = _TEXT | {"description": "Streamed class of which the rows are events."}
_ENTITY = _object({"entity_id": _ID, "found": {"type": "boolean"}, "features": _OBJECT})
_VALIDATION = _object(
    {
        "passed": {"type": "boolean"},
        "checks": _results(("check", "feature", "value", "threshold", "passed", "examples")),
        "drift": _results(("feature", "method", "value", "threshold", "drifted")),
        "drift_skipped": {
            "type": ["string", "null"],
            "description": "What was not judged, and why.",
        },
    },
    required=("passed", "checks", "drift", "drift_skipped"),
)
_TRANSFORM_BODY = _object(
    {
        "artifact": _TEXT | {"description": "Registered fitted artifact."},
        "rows": _list_of(_OBJECT),
    },
    required=("artifact", "rows"),
)
_BATCH_BODY = _object(
    {
        "feature_set": _TEXT,
        "entity_ids": _list_of(_ID),
        "features": _list_of(_TEXT),
        "now": _NOW,
    },
    required=("feature_set", "entity_ids"),
)
_BATCH_RESPONSE = _object({"feature_set": _TEXT, "results": _list_of(_ENTITY)})


def _parameter(name: str, place: str, schema: Schema, **more: Any) -> Schema:
    return {"name": name, "in": place, "required": False, "schema": schema, **more}


_READ_PARAMETERS = [
    _parameter("feature_set", "path", _TEXT, required=True),
    _parameter("entity_id", "query", _ID, required=True),
    _parameter(
        "features", "query", _TEXT, description="Names separated by commas; all by default."
    ),
    _parameter("now", "query", _NOW),
]


def _content(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


def _operation(
    name: str, summary: str, *, body: Schema | None = None, response: Schema = _OBJECT, **more: Any
) -> Schema:
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "tags": ["features"],
        "responses": {"200": {"description": "Answer", **_content(response)}},
        **more,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, **_content(body)}
    return operation


OPENAPI_DOCUMENT: Schema = {
    "openapi": "3.1.0",
    "info": {"title": "Sunloom features", "version": "1"},
    "paths": {
        "/features": {"get": _operation("list_feature_sets", "Feature sets and their types.")},
        "/features/{feature_set}": {
            "get": _operation(
                "read_features",
                "Features of one entity.",
                response=_ENTITY,
                parameters=_READ_PARAMETERS,
            )
        },
        "/features/batch": {
            "post": _operation(
                "read_features_batch",
                "Features of entities.",
                body=_BATCH_BODY,
                response=_BATCH_RESPONSE,
            )
        },
        "/features/validate": {
            "post": _operation(
                "validate_rows",
                "Check rows, and compare them with the set's reference.",
                body=_object(_ROWS, required=("feature_set", "rows")),
                response=_VALIDATION,
            )
        },
        "/features/transform": {
            "post": _operation("transform_rows", "Transform rows.", body=_TRANSFORM_BODY)
        },
        "/features/ingest": {
            "post": _operation(
                "ingest_rows",
                "Write rows: events of a streamed class, or one record a row.",
                body=_object({**_ROWS, "source": _SOURCE}, required=("rows",)),
            )
        },
    },
}
"""The app's OpenAPI document."""
