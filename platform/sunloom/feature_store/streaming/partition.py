"""Stream of one partition: its messages into the store, each exactly once."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from sunloom.errors import ConflictError, DataQualityError
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.decode import MessageDecoder
from sunloom.feature_store.streaming.event_log import MESSAGE, OFFSET, EventLog
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.feature_store.streaming.offsets import PartitionProgress, ProgressKey
from sunloom.features.plan.projection import source_projections

# A share of fewer messages says little: one bad message among ten must not stop a stream.
_MIN_JUDGED = 1_000
_PLACE = "__place__"


@dataclass(frozen=True)
class RejectedMessage:
    """A message that cannot be used, and why."""

    source: str
    offset: int
    reason: str
    value: bytes | None


Quarantine = Callable[[Sequence[RejectedMessage]], None]


class _InTimeEvents(NamedTuple):
    """Events to merge, how many of all were late, and the watermark behind them."""

    events: pl.DataFrame
    late: int
    latest_us: int | None


class ClassStream:
    """Everything that the partitions with one class's events share.

    Args:
        store: The store of tiles and progress.
        layout: The layout of the tiles.
        namespace: The class.
        policy: Late, early and unusable events.
        quarantine: Receives unusable messages, before the rest of their batch is stored.
        log: Keeps events for batch work, if given.
    """

    def __init__(
        self,
        store: OnlineStore,
        layout: TileLayout,
        namespace: str,
        *,
        policy: EventPolicy,
        quarantine: Quarantine,
        log: EventLog | None = None,
    ) -> None:
        self.store = store
        self.layout = layout
        self.namespace = namespace
        self.policy = policy
        self.quarantine = quarantine
        self.log = log
        self.ingest = TileIngest(store, layout, policy.lateness_us)
        self.decoder = _message_decoder(layout, namespace)
        self.time = layout.plan.class_plan(namespace).time


class PartitionStream:
    """One partition; it has one writer at a time, and a second one is detected.

    Args:
        stream: Its class's stream.
        source: ``topic/partition``.
    """

    def __init__(self, stream: ClassStream, source: str) -> None:
        self.source = source
        self._stream = stream
        self._key = ProgressKey.for_source(stream.layout, source)
        self._messages = self._rejected = 0
        self.resume()

    def resume(self) -> int | None:
        """Read the stored progress again; the next offset, None before the first batch."""
        self.progress, self._raw = self._key.read(self._stream.store)
        return self.progress.next_offset

    def process(self, offsets: Sequence[int], values: Sequence[bytes | None]) -> PartitionProgress:
        """Store one batch in one transaction.

        Args:
            offsets: Of consecutive messages; those before the stored offset are skipped.
            values: Their contents.

        Returns:
            The progress after it.

        Raises:
            ConflictError: Another writer has advanced the partition; ``resume`` before going on.
            DataQualityError: Too many messages could not be used; the batch is stored.
        """
        stream, next_offset = self._stream, self.progress.next_offset
        known = 0 if next_offset is None else bisect_left(offsets, next_offset)
        offsets, values = offsets[known:], values[known:]
        if not offsets:
            return self.progress
        events, rejected = self._decode(offsets, values)
        in_time = self._select_in_time(events)
        # Quarantine and log come before the transaction: after a crash in between they are written
        # again, while the other order could lose messages.
        if rejected:
            stream.quarantine(rejected)
        if stream.log is not None:
            self._check_owner()
            # The stored offset: a replayed batch overwrites its file even where compaction left
            # gaps.
            first = offsets[0] if next_offset is None else next_offset
            rows = _log_rows(in_time.events, offsets, values)
            stream.log.write(stream.namespace, self.source, first, rows)
        progress = self.progress.advance(
            offsets[-1] + 1,
            in_time.latest_us,
            events=in_time.events.height,
            late=in_time.late,
            dropped=events.height - in_time.events.height,
            quarantined=len(rejected),
        )
        raw = progress.encode()
        stream.ingest.apply(
            stream.namespace,
            in_time.events.drop(_PLACE),
            progress.latest_us,
            [self._key.guarded_write(raw, self._raw)],
        )
        self.progress, self._raw = progress, raw
        self._check_rejected_share(len(offsets), len(rejected))
        return progress

    def _check_owner(self) -> None:
        """A writer that was replaced must not overwrite the log of its successor."""
        if self._key.read(self._stream.store).raw != self._raw:
            raise ConflictError(
                f"Another writer has advanced {self.source}.",
                "It goes on from there; this one must read the stored offset again.",
            )

    def _decode(
        self, offsets: Sequence[int], values: Sequence[bytes | None]
    ) -> tuple[pl.DataFrame, list[RejectedMessage]]:
        """Rows with their places in the batch, and the messages that cannot be used."""
        decoded = self._stream.decoder.decode(values)
        events = decoded.rows.with_columns(decoded.places.alias(_PLACE))
        rejected = list(decoded.rejected)
        if self._stream.time is not None and events.height:
            limit = time.time_ns() // 1_000 + self._stream.policy.ahead_us
            ahead = events[self._stream.time].cast(pl.Int64) > limit
            # One event far in the future would make every later one late.
            if ahead.any():
                reason = f"{self._stream.time} is in the future"
                rejected += [(place, reason) for place in decoded.places.filter(ahead)]
                events = events.filter(~ahead)
        return events, [
            RejectedMessage(self.source, offsets[place], reason, values[place])
            for place, reason in sorted(rejected)
        ]

    def _select_in_time(self, events: pl.DataFrame) -> _InTimeEvents:
        latest_us, policy = self.progress.latest_us, self._stream.policy
        if self._stream.time is None or not events.height:
            return _InTimeEvents(events, 0, latest_us)
        times = events[self._stream.time].cast(pl.Int64)
        # Each event is compared with all before it in the partition, so that the result does not
        # depend on where batches end.
        watermark = times.cum_max()
        if latest_us is not None:
            watermark = watermark.clip(lower_bound=latest_us)
        late = times < watermark - policy.lateness_us
        dropped = late if policy.drops_late else late & False
        if policy.after_us is not None:
            dropped |= times <= policy.after_us
        kept = events.filter(~dropped) if dropped.any() else events
        return _InTimeEvents(kept, int(late.sum()), int(watermark[-1]))

    def _check_rejected_share(self, messages: int, rejected: int) -> None:
        self._messages, self._rejected = self._messages + messages, self._rejected + rejected
        share = self._stream.policy.max_bad_share
        if self._rejected > share * max(self._messages, _MIN_JUDGED):
            raise DataQualityError(
                f"{self._rejected} of {self._messages} messages of {self.source} could not be "
                f"used, more than {share:.2%}.",
                "Look at the quarantine; mend the producer or raise max_bad_share.",
            )


def _log_rows(
    events: pl.DataFrame, offsets: Sequence[int], values: Sequence[bytes | None]
) -> pl.DataFrame:
    """Events with offset and message, for the log."""
    places = events[_PLACE]
    return events.drop(_PLACE).with_columns(
        pl.Series(OFFSET, offsets, dtype=pl.Int64).gather(places),
        pl.Series(MESSAGE, values, dtype=pl.Binary).gather(places),
    )


def _message_decoder(layout: TileLayout, namespace: str) -> MessageDecoder:
    """Decodes what the indexes and the log read of a class's events."""
    item = layout.plan.class_plan(namespace)
    indexes = layout.indexes_of(namespace)
    times = {index.time for index in indexes if index.time is not None}
    keys = {key for index in indexes for key in index.keys}
    needed = times | set(source_projections(layout.plan)[namespace].columns)
    needed |= {name for index in indexes for name in index.columns}
    names = [f.name for f in item.features if f.expression is None and f.name in needed]
    # With several keys an event without one of them is still found by the others.
    required = [name for name in names if name in times or keys == {name}]
    return MessageDecoder(item, names, required)
