"""Rows that come in over HTTP: checked against the stored schema, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sunloom.errors import RequestError
from sunloom.feature_store.stores.online.protocol import OnlineStore, RecordSchema

if TYPE_CHECKING:
    import polars as pl

TIME = "event_time"
_MOST_ROWS = 10_000
_SHOWN = 5


def check_rows(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """``POST /features/validate``: whether rows fit the feature set, and have drifted.

    ``drift_skipped`` says what was not compared, and why.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field.
    """
    from sunloom.data.quality.report import null_infinite
    from sunloom.feature_store.online.request_checks import validate_request

    schema, rows = _read(store, body)
    checks, verdict = list(_checks(schema, rows)), validate_request(store, schema.feature_set, rows)
    return {
        "passed": verdict.is_passed and all(check["passed"] for check in checks),
        "checks": [*checks, *null_infinite([asdict(check) for check in verdict.checks])],
        "drift": null_infinite([asdict(column) for column in verdict.drift]),
        "drift_skipped": verdict.drift_skipped,
    }


def ingest_rows(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """``POST /features/ingest``: write rows; a stored newer value stays.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field, or a row does not fit.
    """
    schema, rows = _read(store, body)
    failed = [check for check in _checks(schema, rows) if not check["passed"]]
    if failed:
        names = ", ".join(f"{check['feature']} ({check['check']})" for check in failed)
        raise RequestError(f"Rows do not fit {schema.feature_set!r}: {names}.", param="rows")
    arrived = datetime.now(UTC)
    table = _table(schema, rows, [_time(row.get(TIME), arrived) for row in rows])
    written = store.write(schema.feature_set, table, key=schema.key, time=TIME)
    return {"feature_set": schema.feature_set, "rows": len(rows), "written": written}


def _read(
    store: OnlineStore, body: Mapping[str, Any]
) -> tuple[RecordSchema, Sequence[dict[str, Any]]]:
    name = body.get("feature_set")
    if not isinstance(name, str):
        raise RequestError("feature_set must be a name.", param="feature_set")
    return store.schema(name), rows_of(body)


def rows_of(body: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The rows of a request.

    Raises:
        RequestError: They are no list of objects, or too many.
    """
    rows = body.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError("rows must be a list of objects.", param="rows")
    if len(rows) > _MOST_ROWS:
        raise RequestError(f"At most {_MOST_ROWS} rows a request.", param="rows")
    return rows


def _checks(schema: RecordSchema, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    known = {schema.key, TIME, *schema.names}
    unknown = sorted({name for row in rows for name in row} - known)
    yield _check("known_columns", "*", unknown)
    missing = [index for index, row in enumerate(rows) if row.get(schema.key) is None]
    yield _check("key_present", schema.key, missing)
    for field in schema.fields:
        yield _check("present", field.name, _lacking(rows, field.name))
        yield _check(f"is_{field.dtype}", field.name, _misfits(rows, field.name, field.dtype))


def _lacking(rows: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return [index for index, row in enumerate(rows) if name not in row]


def _misfits(rows: Sequence[Mapping[str, Any]], name: str, dtype: str) -> list[int]:
    from sunloom.feature_store.stores.online.json_values import json_converter

    convert = json_converter(dtype)
    return [index for index, row in enumerate(rows) if not _fits(convert, row.get(name))]


def _fits(convert: Callable[[Any], Any], value: Any) -> bool:
    try:
        convert(value)
    except (ValueError, OverflowError):
        return False
    return True


def _table(
    schema: RecordSchema, rows: Sequence[Mapping[str, Any]], times: Sequence[datetime]
) -> pl.DataFrame:
    from sunloom.feature_store.stores.online.json_values import build_table

    try:
        return build_table(schema, rows, times, TIME)
    except (ValueError, OverflowError) as error:
        raise RequestError(
            f"A row's {schema.key!r} is no {schema.key_dtype}.", param="rows"
        ) from error


def _check(check: str, feature: str, examples: Sequence[Any]) -> dict[str, Any]:
    return {
        "check": check,
        "feature": feature,
        "value": len(examples),
        "threshold": 0,
        "passed": not examples,
        "examples": list(examples[:_SHOWN]),
    }


def _time(value: Any, arrived: datetime) -> datetime:
    if value is None:
        return arrived
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise RequestError(f"{TIME} {value!r} is not an ISO timestamp.", param=TIME) from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
