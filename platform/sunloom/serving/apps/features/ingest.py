"""``POST /features/ingest``: events of a streamed class into its tiles, other rows into records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sunloom.errors import NotFoundError, RequestError
from sunloom.feature_store.online.registry import StoredDefinition, definitions_of
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.serving.apps.features.request_rows import ingest_rows, rows_of


def ingest(store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows: events where the feature set is streamed, else one record a row.

    The body names a ``feature_set``, or the ``source`` class whose events the rows are and which
    every set that streams it then receives, or both.

    Raises:
        NotFoundError: Unknown feature set or source.
        RequestError: The body lacks a field.
        DataError: A row is no event; none was written to that set.
    """
    name, source = body.get("feature_set"), body.get("source")
    if source is not None and not isinstance(source, str):
        raise RequestError("source must be the namespace of a class.", param="source")
    if name is None and source is None:
        raise RequestError("The body names no feature_set and no source.", param="feature_set")
    found = _streaming(store, name, source)
    if not found:
        return ingest_rows(store, body)
    from sunloom.feature_store.streaming.push import ingest_events

    rows = rows_of(body)
    written = 0
    for definition in found.values():
        layout = definition.reader.layout
        assert definition.policy is not None
        kind = _class(definition, source)
        written = max(written, ingest_events(store, layout, definition.policy, kind, rows))
    return {"feature_sets": list(found), "rows": len(rows), "written": written}


def _streaming(store: OnlineStore, name: Any, source: str | None) -> dict[str, StoredDefinition]:
    """The streamed sets that the rows are for; none where they are records."""
    if name is not None:
        if not isinstance(name, str):
            raise RequestError("feature_set must be a name.", param="feature_set")
        found = definitions_of(store).get(name)
        return {name: found} if found is not None and found.is_streamed else {}
    streamed = definitions_of(store).streamed_sets()
    fitting = {k: one for k, one in streamed.items() if source in one.reader.layout.streamed}
    if not fitting:
        known = {space for one in streamed.values() for space in one.reader.layout.streamed}
        raise NotFoundError(
            f"No feature set streams {source!r}.", known=known, name=str(source), param="source"
        )
    return fitting


def _class(definition: StoredDefinition, source: str | None) -> str:
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
