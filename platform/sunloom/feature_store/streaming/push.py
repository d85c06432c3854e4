"""Events that come one request at a time instead of by a topic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.errors import ConflictError, DataError
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.online.tiles.policy import Policy
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.partition import ClassStream, PartitionStream, Refused

_SHOWN = 5
_MOST_TRIES = 50


def ingest_events(
    store: OnlineStore,
    layout: TileLayout,
    policy: Policy,
    namespace: str,
    rows: Sequence[Mapping[str, Any]],
) -> int:
    """Merge rows of a streamed class into its tiles, all or none; how many were merged.

    They are not in the stream's log: who posts events keeps them.

    Raises:
        DataError: A row cannot be used; none was.
    """
    stream = ClassStream(store, layout, namespace, policy, _refuse)
    values = [json.dumps(row, default=str).encode() for row in rows]
    for _ in range(_MOST_TRIES):
        partition = PartitionStream(stream, f"direct/{namespace}")
        before = partition.progress
        first = before.next_offset or 0
        try:
            after = partition.process(range(first, first + len(values)), values)
        except ConflictError:
            # Another replica was first.
            continue
        return after.events - before.events
    raise ConflictError(f"Too many writers at once of events of {namespace!r}.", "Send them again.")


def _refuse(refused: Sequence[Refused]) -> None:
    reasons = "; ".join(dict.fromkeys(one.reason for one in refused[:_SHOWN]))
    raise DataError(f"{len(refused)} rows are no events: {reasons}.", "None was merged.", "rows")
