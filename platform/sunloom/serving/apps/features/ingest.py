"""``POST /features/ingest`` and ``/features/validate``: rows written, or only checked.

Events of a streamed class go into its tiles, other rows into records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sunloom.config.serving import FeaturesServing
from sunloom.errors import DataError, NotFoundError, RequestError, known_names_hint
from sunloom.feature_store.online.registry import StoredDefinition, definitions_of
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.stored_feature_set import RecordSchema
from sunloom.serving.error_body import InvalidBodyError

TIME = "event_time"
_MAX_ROWS = 10_000
_MAX_EXAMPLES = 5
AHEAD = FeaturesServing().ahead
"""How far ahead of the clock an event time may be."""


def ingest(store: OnlineStore, body: Mapping[str, Any], ahead: timedelta = AHEAD) -> dict[str, Any]:
    """Write rows: as events of a streamed feature set, else as one record per row.

    The body names a ``feature_set``, or the ``source`` class of which the rows are events, which
    are then written to every set that streams it, or both.

    Args:
        store: The store.
        body: The request's body.
        ahead: How far ahead of the clock a record's event time may be; a stream has its own.

    Raises:
        NotFoundError: Unknown feature set or source.
        RequestError: The body lacks a field.
        DataError: A row is not a valid event; none was written to that set.
    """
    source = body.get("source")
    if source is not None and not isinstance(source, str):
        raise RequestError("source must be the namespace of a class.", param="source")
    if source is None and body.get("feature_set") is None:
        raise RequestError("The body names no feature_set and no source.", param="feature_set")
    streamed = _streamed_sets(store, body, source)
    if not streamed:
        return ingest_rows(store, body, ahead)
    from sunloom.feature_store.streaming.partition import ingest_events

    rows = parse_rows(body)
    written = 0
    for definition in streamed.values():
        assert definition.policy is not None
        layout, event_class = definition.reader.layout, _event_class(definition, source)
        # Each set may drop other events as late or known: the largest number is reported.
        written = max(written, ingest_events(store, layout, definition.policy, event_class, rows))
    return {"feature_sets": list(streamed), "rows": len(rows), "written": written}


def ingest_rows(
    store: OnlineStore, body: Mapping[str, Any], ahead: timedelta = AHEAD
) -> dict[str, Any]:
    """Write rows as records; a stored newer value stays.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field, or a row does not fit the schema.
        DataError: An event time is too far ahead of the clock; none was written.
    """
    from sunloom.feature_store.stores.online.json_values import build_table, json_converter

    schema, rows = _read_request(store, body)
    # All rows before the first is written: a client can send a refused request again, mended.
    failed = [check for check in _check_schema(schema, rows) if not check["passed"]]
    if failed:
        names = ", ".join(f"{check['feature']} ({check['check']})" for check in failed)
        raise RequestError(f"Rows do not fit {schema.feature_set!r}: {names}.", param="rows")
    # A row without an event time has that of its arrival.
    arrival = datetime.now(UTC)
    times = [
        arrival if row.get(TIME) is None else _parse_time(row, n) for n, row in enumerate(rows)
    ]
    # No later row would ever replace one of the year 9999: refused as the stream quarantines it.
    future = [number for number, time in enumerate(times) if time > arrival + ahead]
    if future:
        reasons = [f"rows[{number}]: {TIME} is in the future" for number in future[:_MAX_EXAMPLES]]
        raise DataError(
            f"{len(future)} rows are ahead of the clock: {'; '.join(reasons)}.",
            "None was written.",
            "rows",
        )
    for number, row in enumerate(rows):
        if not _is_valid(json_converter(schema.key_dtype), row[schema.key]):
            message = f"rows[{number}]: {schema.key} is no {schema.key_dtype}."
            raise RequestError(message, param="rows")
    table = build_table(schema, rows, times, TIME)
    written = store.write(schema.feature_set, table, key=schema.key, time=TIME)
    return {"feature_set": schema.feature_set, "rows": len(rows), "written": written}


def _parse_time(row: Mapping[str, Any], number: int) -> datetime:
    try:
        # Only text is shown back, and a number would be read as a date's digits.
        if not isinstance(row[TIME], str):
            raise ValueError(TIME)
        time = datetime.fromisoformat(row[TIME])
        # In the first and last hours of the calendar the time in UTC may be beyond it.
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        shown = f" {row[TIME][:60]!r}" if isinstance(row[TIME], str) else ""
        message = f"rows[{number}]: {TIME}{shown} is not an ISO timestamp."
        raise RequestError(message, param=TIME) from error


def _streamed_sets(
    store: OnlineStore, body: Mapping[str, Any], source: str | None
) -> dict[str, StoredDefinition]:
    """The streamed feature sets that receive the rows as events; empty if they are records."""
    if body.get("feature_set") is not None:
        name = feature_set_of(body)
        definition = definitions_of(store).get(name)
        return {name: definition} if definition is not None and definition.is_streamed else {}
    streamed = definitions_of(store).streamed_sets()
    receivers = {
        set_name: definition
        for set_name, definition in streamed.items()
        if source in definition.reader.layout.streamed
    }
    if not receivers:
        raise NotFoundError(
            f"No feature set streams {source!r}.",
            known={
                event_class
                for definition in streamed.values()
                for event_class in definition.reader.layout.streamed
            },
            name=str(source),
            param="source",
        )
    return receivers


def _event_class(definition: StoredDefinition, source: str | None) -> str:
    streamed = definition.reader.layout.streamed
    if source is None and len(streamed) == 1:
        return streamed[0]
    if source not in streamed:
        raise RequestError(
            f"Say whose events the rows are: source is {source!r}.",
            f"One of: {', '.join(streamed)}.",
            "source",
        )
    return source


def check_rows(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """``POST /features/validate``: check rows against the feature set and its reference.

    ``drift_skipped`` says what was not judged, and why.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field.
    """
    from sunloom.data.quality.report import null_infinite
    from sunloom.feature_store.online.request_checks import validate_request

    schema, rows = _read_request(store, body)
    checks = list(_check_schema(schema, rows))
    verdict = validate_request(store, schema.feature_set, rows)
    return {
        "passed": verdict.is_passed and all(check["passed"] for check in checks),
        "checks": [*checks, *null_infinite([asdict(check) for check in verdict.checks])],
        "drift": null_infinite([asdict(column) for column in verdict.drift]),
        "drift_skipped": verdict.drift_skipped,
    }


def _read_request(
    store: OnlineStore, body: Mapping[str, Any]
) -> tuple[RecordSchema, Sequence[dict[str, Any]]]:
    return store.schema(feature_set_of(body)), parse_rows(body)


def check_fields(body: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a body with a field that its route does not take: what it meant would not be done.

    Raises:
        InvalidBodyError: Names the field and the nearest known one.
    """
    for name in body:
        if name not in known:
            hint = known_names_hint(name[:60], known)
            raise InvalidBodyError(f"The body has an unknown field {name[:60]!r}.", hint, name[:60])


def feature_set_of(body: Mapping[str, Any]) -> str:
    """The name of the feature set in a body.

    Raises:
        RequestError: There is none, or it is no text.
    """
    name = body.get("feature_set")
    if not isinstance(name, str):
        raise RequestError("feature_set must be a name.", param="feature_set")
    return name


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


def _check_schema(
    schema: RecordSchema, rows: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Checks of the rows' columns, keys and types, as the route returns them."""
    from sunloom.feature_store.stores.online.json_values import json_converter

    # A row may have its own event time, which is no field of the schema.
    known = {schema.key, TIME, *schema.names}
    unknown = sorted({name for row in rows for name in row} - known)
    yield _check("known_columns", "*", unknown)
    missing = [index for index, row in enumerate(rows) if row.get(schema.key) is None]
    yield _check("key_present", schema.key, missing)
    for field in schema.fields:
        absent = [index for index, row in enumerate(rows) if field.name not in row]
        yield _check("present", field.name, absent)
        convert = json_converter(field.dtype)
        values = enumerate(row.get(field.name) for row in rows)
        invalid = [index for index, value in values if not _is_valid(convert, value)]
        yield _check(f"is_{field.dtype}", field.name, invalid)


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
