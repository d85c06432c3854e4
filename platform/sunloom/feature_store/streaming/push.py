"""Push of events by request, without a topic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.errors import ConflictError, DataError
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.partition import (
    ClassStream,
    PartitionStream,
    RejectedMessage,
)

_MAX_REASONS = 5
_MAX_ATTEMPTS = 50


def ingest_events(
    store: OnlineStore,
    layout: TileLayout,
    policy: EventPolicy,
    namespace: str,
    rows: Sequence[Mapping[str, Any]],
) -> int:
    """Merge rows of a streamed class into its tiles, all or none; how many were merged.

    They are not written to the stream's log: whoever sends events keeps them.

    Raises:
        DataError: A row cannot be used; none was merged.
    """
    stream = ClassStream(store, layout, namespace, policy=policy, quarantine=_refuse)
    # Through the decoder of messages: the same types, and the same reasons for refusals.
    values = [json.dumps(row, default=str).encode() for row in rows]
    for _ in range(_MAX_ATTEMPTS):
        # The name is part of the stored progress.
        partition = PartitionStream(stream, f"direct/{namespace}")
        before = partition.progress
        first = before.next_offset or 0
        try:
            after = partition.process(range(first, first + len(values)), values)
        except ConflictError:
            # Another replica of the app was first: take the offset behind its rows.
            continue
        return after.events - before.events
    raise ConflictError(f"Too many writers at once of events of {namespace!r}.", "Send them again.")


def _refuse(rejected: Sequence[RejectedMessage]) -> None:
    reasons = "; ".join(dict.fromkeys(message.reason for message in rejected[:_MAX_REASONS]))
    raise DataError(f"{len(rejected)} rows are no events: {reasons}.", "None was merged.", "rows")
