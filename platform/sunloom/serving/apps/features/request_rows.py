"""Rows of a request: parsed, and checked against the stored schema and the set's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sunloom.errors import RequestError
from sunloom.feature_store.stores.online.protocol import OnlineStore, RecordSchema

TIME = "event_time"
_MAX_ROWS = 10_000
_MAX_EXAMPLES = 5


def check_rows(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """``POST /features/validate``: check rows against the feature set and its reference.

    ``drift_skipped`` says what was not compared, and why.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field.
    """
    from sunloom.data.quality.report import null_infinite
    from sunloom.feature_store.online.request_checks import validate_request

    schema, rows = read_request(store, body)
    checks, verdict = (
        list(check_schema(schema, rows)),
        validate_request(store, schema.feature_set, rows),
    )
    return {
        "passed": verdict.is_passed and all(check["passed"] for check in checks),
        "checks": [*checks, *null_infinite([asdict(check) for check in verdict.checks])],
        "drift": null_infinite([asdict(column) for column in verdict.drift]),
        "drift_skipped": verdict.drift_skipped,
    }


def read_request(
    store: OnlineStore, body: Mapping[str, Any]
) -> tuple[RecordSchema, Sequence[dict[str, Any]]]:
    """Schema and rows that a body names.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field.
    """
    name = body.get("feature_set")
    if not isinstance(name, str):
        raise RequestError("feature_set must be a name.", param="feature_set")
    return store.schema(name), parse_rows(body)


def parse_rows(body: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The rows of a request.

    Raises:
        RequestError: They are not a list of objects, or too many.
    """
    rows = body.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError("rows must be a list of objects.", param="rows")
    if len(rows) > _MAX_ROWS:
        raise RequestError(f"At most {_MAX_ROWS} rows a request.", param="rows")
    return rows


def check_schema(
    schema: RecordSchema, rows: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Checks of the rows' columns, keys and types, as the route returns them."""
    # A row may have its own event time, which is no field of the schema.
    known = {schema.key, TIME, *schema.names}
    unknown = sorted({name for row in rows for name in row} - known)
    yield _check("known_columns", "*", unknown)
    missing = [index for index, row in enumerate(rows) if row.get(schema.key) is None]
    yield _check("key_present", schema.key, missing)
    for field in schema.fields:
        yield _check("present", field.name, _rows_without(rows, field.name))
        invalid = _rows_of_other_type(rows, field.name, field.dtype)
        yield _check(f"is_{field.dtype}", field.name, invalid)


def _rows_without(rows: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return [index for index, row in enumerate(rows) if name not in row]


def _rows_of_other_type(rows: Sequence[Mapping[str, Any]], name: str, dtype: str) -> list[int]:
    from sunloom.feature_store.stores.online.json_values import json_converter

    convert = json_converter(dtype)
    return [index for index, row in enumerate(rows) if not _is_valid(convert, row.get(name))]


def _is_valid(convert: Callable[[Any], Any], value: Any) -> bool:
    try:
        convert(value)
    except (ValueError, OverflowError):
        return False
    return True


def _check(check: str, feature: str, examples: Sequence[Any]) -> dict[str, Any]:
    return {
        "check": check,
        "feature": feature,
        "value": len(examples),
        "threshold": 0,
        "passed": not examples,
        "examples": list(examples[:_MAX_EXAMPLES]),
    }
