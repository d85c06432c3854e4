"""OpenAPI document of the features app, written by hand: its routes use no framework."""

from __future__ import annotations

from typing import Any

_ID: dict[str, Any] = {"oneOf": [{"type": "integer"}, {"type": "string"}]}
_NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_ROWS: dict[str, Any] = {
    "type": "object",
    "required": ["feature_set", "rows"],
    "properties": {
        "feature_set": {"type": "string"},
        "rows": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    },
}
_EVENTS: dict[str, Any] = {
    "type": "object",
    "required": ["rows"],
    "properties": {
        **_ROWS["properties"],
        "source": {
            "type": "string",
            "description": "Streamed class of which the rows are events.",
        },
    },
}
_NOW: dict[str, Any] = {
    "type": "string",
    "format": "date-time",
    "description": "As-of time; by default now, or as records were written.",
}
_ENTITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "entity_id": _ID,
        "found": {"type": "boolean"},
        "features": {"type": "object"},
    },
}


_VALIDATION: dict[str, Any] = {
    "type": "object",
    "required": ["passed", "checks", "drift", "drift_skipped"],
    "properties": {
        "passed": {"type": "boolean"},
        "checks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["check", "feature", "value", "threshold", "passed", "examples"],
            },
        },
        "drift": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["feature", "method", "value", "threshold", "drifted"],
            },
        },
        "drift_skipped": {
            "type": ["string", "null"],
            "description": "What was not compared, and why.",
        },
    },
}
_TRANSFORM_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["artifact", "rows"],
    "properties": {
        "artifact": {"type": "string", "description": "Registered fitted artifact."},
        "rows": {"type": "array", "items": {"type": "object"}},
    },
}


def openapi_document() -> dict[str, Any]:
    """The app's OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sunloom features", "version": "1"},
        "paths": {
            "/features": {"get": _operation("list_feature_sets", "Feature sets and their types.")},
            "/features/{feature_set}": {"get": _read_operation()},
            "/features/batch": {"post": _batch_operation()},
            "/features/validate": {
                "post": _operation(
                    "validate_rows",
                    "Check rows, and compare them with the set's reference.",
                    body=_ROWS,
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
                    body=_EVENTS,
                )
            },
        },
    }


def _read_operation() -> dict[str, Any]:
    parameters = [
        {"name": "feature_set", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "entity_id", "in": "query", "required": True, "schema": _ID},
        {
            "name": "features",
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "Names separated by commas; all by default.",
        },
        {"name": "now", "in": "query", "required": False, "schema": _NOW},
    ]
    read = _operation("read_features", "Features of one entity.", response=_ENTITY)
    return read | {"parameters": parameters}


def _batch_operation() -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["feature_set", "entity_ids"],
        "properties": {
            "feature_set": {"type": "string"},
            "entity_ids": {"type": "array", "items": _ID},
            "features": _NAMES,
            "now": _NOW,
        },
    }
    response = {
        "type": "object",
        "properties": {
            "feature_set": {"type": "string"},
            "results": {"type": "array", "items": _ENTITY},
        },
    }
    return _operation("read_features_batch", "Features of entities.", body=body, response=response)


def _operation(
    name: str,
    summary: str,
    *,
    body: dict[str, Any] | None = None,
    response: dict[str, Any] | None = None,
) -> dict[str, Any]:
    content = {"application/json": {"schema": response or {"type": "object"}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["features"],
        "responses": {"200": {"description": "Answer", "content": content}},
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation
