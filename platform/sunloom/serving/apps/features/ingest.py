"""``POST /features/ingest``: events of a streamed class into its tiles, other rows into records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sunloom.errors import NotFoundError, RequestError
from sunloom.feature_store.online.registry import StoredDefinition, definitions_of
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.serving.apps.features.request_rows import TIME, check_schema, parse_rows, read_request


def ingest(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows: as events of a streamed feature set, else as one record per row.

    The body names a ``feature_set``, or the ``source`` class of which the rows are events, which
    are then written to every set that streams it, or both.

    Raises:
        NotFoundError: Unknown feature set or source.
        RequestError: The body lacks a field.
        DataError: A row is not a valid event; none was written to that set.
    """
    name, source = body.get("feature_set"), body.get("source")
    if source is not None and not isinstance(source, str):
        raise RequestError("source must be the namespace of a class.", param="source")
    if name is None and source is None:
        raise RequestError("The body names no feature_set and no source.", param="feature_set")
    streamed = _streamed_sets(store, name, source)
    if not streamed:
        return ingest_rows(store, body)
    from sunloom.feature_store.streaming.push import ingest_events

    rows = parse_rows(body)
    written = 0
    for definition in streamed.values():
        assert definition.policy is not None
        layout, event_class = definition.reader.layout, _event_class(definition, source)
        # Each set may drop other events as late or known: the largest number is reported.
        written = max(written, ingest_events(store, layout, definition.policy, event_class, rows))
    return {"feature_sets": list(streamed), "rows": len(rows), "written": written}


def ingest_rows(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows as records; a stored newer value stays.

    Raises:
        NotFoundError: Unknown feature set.
        RequestError: The body lacks a field, or a row does not fit the schema.
    """
    from sunloom.feature_store.stores.online.json_values import build_table

    schema, rows = read_request(store, body)
    # All rows before the first is written: a client can send a refused request again, mended.
    failed = [check for check in check_schema(schema, rows) if not check["passed"]]
    if failed:
        names = ", ".join(f"{check['feature']} ({check['check']})" for check in failed)
        raise RequestError(f"Rows do not fit {schema.feature_set!r}: {names}.", param="rows")
    try:
        table = build_table(schema, rows, _event_times(rows), TIME)
    except (ValueError, OverflowError) as error:
        raise RequestError(
            f"A row's {schema.key!r} is no {schema.key_dtype}.", param="rows"
        ) from error
    written = store.write(schema.feature_set, table, key=schema.key, time=TIME)
    return {"feature_set": schema.feature_set, "rows": len(rows), "written": written}


def _event_times(rows: Sequence[Mapping[str, Any]]) -> list[datetime]:
    """Event times of the rows: their own, else the time of arrival."""
    arrival = datetime.now(UTC)
    return [arrival if row.get(TIME) is None else _parse_time(row[TIME]) for row in rows]


def _parse_time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise RequestError(f"{TIME} {value!r} is not an ISO timestamp.", param=TIME) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _streamed_sets(
    store: OnlineStore, name: Any, source: str | None
) -> dict[str, StoredDefinition]:
    """The streamed feature sets that receive the rows as events; empty if they are records."""
    if name is not None:
        if not isinstance(name, str):
            raise RequestError("feature_set must be a name.", param="feature_set")
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
