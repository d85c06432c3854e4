"""Stream of one partition: its messages into the store, each exactly once.

Its progress is stored in the transactions that change the tiles. Pushed events have no topic and
go the same way.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.errors import ConflictError, DataError, DataQualityError
from sunloom.feature_store.online.registry import EventPolicy
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.decode import PLACE, MessageDecoder
from sunloom.feature_store.streaming.ingest import GuardedWrite, TileIngest
from sunloom.feature_store.streaming.quarantine import Quarantine, RejectedMessage
from sunloom.features.sources.scan import source_projections

# A share of fewer messages says little: one bad message among ten must not stop a stream.
_MIN_JUDGED = 1_000
OFFSET, MESSAGE = "__offset", "__message"
_MAX_REASONS = 5
_MAX_ATTEMPTS = 50


@dataclass(frozen=True)
class PartitionProgress:
    """A partition's offset and counts.

    Attributes:
        next_offset: The first message that is not in the store; None before the first batch.
        latest_us: The watermark: latest event time so far, microseconds.
        events: Events merged.
        late: Events that arrived later than allowed.
        dropped: Events that were not merged: late ones, and those that the batch source has.
        quarantined: Messages that could not be used.
        tombstones: Messages without a value.
    """

    next_offset: int | None = None
    latest_us: int | None = None
    events: int = 0
    late: int = 0
    dropped: int = 0
    quarantined: int = 0
    tombstones: int = 0

    def advance(
        self,
        next_offset: int,
        latest_us: int | None,
        *,
        events: int,
        late: int = 0,
        dropped: int = 0,
        quarantined: int = 0,
        tombstones: int = 0,
    ) -> PartitionProgress:
        """The progress after one more batch, of which these are the counts."""
        return replace(
            self,
            next_offset=next_offset,
            latest_us=latest_us,
            events=self.events + events,
            late=self.late + late,
            dropped=self.dropped + dropped,
            quarantined=self.quarantined + quarantined,
            tombstones=self.tombstones + tombstones,
        )

    def encode(self) -> bytes:
        """The progress as it is stored."""
        return json.dumps(asdict(self)).encode()


class StoredProgress(NamedTuple):
    """A progress and the bytes that the store holds of it; None where it holds none."""

    # The next write compares these bytes: encoded again, by a later release, they might differ.

    progress: PartitionProgress
    raw: bytes | None


@dataclass(frozen=True)
class ProgressKey:
    """The key in the store of one partition's progress."""

    space: str
    key: bytes

    @classmethod
    def for_source(cls, layout: TileLayout, source: str) -> ProgressKey:
        """The key of one source of events, such as ``topic/3``."""
        return cls(layout.offset_space, source.encode())

    def read(self, store: OnlineStore) -> StoredProgress:
        """The stored progress."""
        raw = store.get_many(self.space, [self.key])[0]
        progress = PartitionProgress() if raw is None else PartitionProgress(**json.loads(raw))
        return StoredProgress(progress, raw)

    def guarded_write(self, raw: bytes, expected: bytes | None) -> GuardedWrite:
        """The write of a new progress, valid while nobody else has written one."""
        return GuardedWrite((self.space, self.key, raw), expected)


def all_progress(store: OnlineStore, layout: TileLayout) -> dict[str, PartitionProgress]:
    """Source to progress, of everything that was streamed for this layout."""
    return {
        key.decode(): PartitionProgress(**json.loads(raw))
        for key, raw in store.scan(layout.offset_space)
    }


class _DecodedBatch(NamedTuple):
    """Rows with their places in the batch, messages that cannot be used, and tombstones."""

    events: pl.DataFrame
    rejected: Sequence[RejectedMessage]
    tombstones: int


class _InTimeEvents(NamedTuple):
    """Events to merge, how many of all were late, and the watermark behind them."""

    events: pl.DataFrame
    late: int
    latest_us: int | None


class EventLog:
    """One folder per class, one file per batch; a batch that is replayed overwrites its file.

    Args:
        folder: Holds the classes' folders; each can be given to ``--source NAME=PATH``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, namespace: str, source: str, first_offset: int, events: pl.DataFrame) -> None:
        """Write one batch.

        Args:
            namespace: The class.
            source: ``topic/partition``.
            first_offset: Of the batch, whether or not its first message was usable.
            events: Rows with ``OFFSET`` and ``MESSAGE``, the original message.
        """
        folder = self.folder / namespace
        # A batch starts at the stored offset: a file of that name is what an attempt left that
        # crashed before its transaction.
        file = folder / f"{source.replace('/', '-')}-{first_offset:020d}.parquet"
        if not events.height:
            file.unlink(missing_ok=True)
            return
        with atomic_path(file) as partial:
            # The stream waits for it: speed counts for more than size.
            events.write_parquet(partial, compression="lz4")


@dataclass(frozen=True)
class ClassStream:
    """Everything that the partitions with one class's events share.

    Attributes:
        store: The store of tiles and progress.
        layout: The layout of the tiles.
        namespace: The class.
        policy: Late, early and unusable events.
        quarantine: Receives unusable messages, before the rest of their batch is stored.
        log: Keeps events for batch work, if given.
    """

    store: OnlineStore
    layout: TileLayout
    namespace: str
    policy: EventPolicy
    quarantine: Quarantine
    log: EventLog | None = None

    @cached_property
    def time(self) -> str | None:
        """The class's event time."""
        return self.layout.plan.class_plan(self.namespace).time

    @cached_property
    def ingest(self) -> TileIngest:
        """Merges events into the tiles."""
        return TileIngest(self.store, self.layout, self.policy.lateness_us)

    @cached_property
    def decoder(self) -> MessageDecoder:
        """Decodes what the indexes and the log read of the class's events."""
        item = self.layout.plan.class_plan(self.namespace)
        indexes = self.layout.indexes_of(self.namespace)
        times = {index.time for index in indexes if index.time is not None}
        keys = {key for index in indexes for key in index.keys}
        needed = times | set(source_projections(self.layout.plan)[self.namespace].columns)
        needed |= {name for index in indexes for name in index.columns}
        names = [f.name for f in item.features if f.expression is None and f.name in needed]
        # With several keys an event without one of them is still found by the others.
        required = [name for name in names if name in times or keys == {name}]
        return MessageDecoder(item, names, required)


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
        events, rejected, tombstones = self._decode(offsets, values)
        in_time = self._select_in_time(events)
        progress = self.progress.advance(
            offsets[-1] + 1,
            in_time.latest_us,
            events=in_time.events.height,
            late=in_time.late,
            dropped=events.height - in_time.events.height,
            quarantined=len(rejected),
            tombstones=tombstones,
        )
        raw = progress.encode()
        guard = self._key.guarded_write(raw, self._raw)
        # Quarantine and log come before the transaction: after a crash in between they are written
        # again, while the other order could lose messages.
        if rejected:
            stream.quarantine(rejected)
        if stream.log is not None:
            # A writer that was replaced must not overwrite the log of its successor.
            stream.ingest.check_guard(guard)
            # The stored offset: a replayed batch overwrites its file even where compaction left
            # gaps.
            first = offsets[0] if next_offset is None else next_offset
            places = in_time.events[PLACE]
            logged = in_time.events.drop(PLACE).with_columns(
                pl.Series(OFFSET, offsets, dtype=pl.Int64).gather(places),
                pl.Series(MESSAGE, values, dtype=pl.Binary).gather(places),
            )
            stream.log.write(stream.namespace, self.source, first, logged)
        kept = in_time.events.drop(PLACE)
        stream.ingest.apply(stream.namespace, kept, progress.latest_us, guard)
        self.progress, self._raw = progress, raw
        self._check_rejected_share(len(offsets) - tombstones, len(rejected))
        return progress

    def _decode(self, offsets: Sequence[int], values: Sequence[bytes | None]) -> _DecodedBatch:
        decoded = self._stream.decoder.decode(values)
        events, rejected = decoded.rows, list(decoded.rejected)
        if self._stream.time is not None and events.height:
            limit = time.time_ns() // 1_000 + self._stream.policy.ahead_us
            ahead = events[self._stream.time].cast(pl.Int64) > limit
            # One event far in the future would make every later one late.
            if ahead.any():
                reason = f"{self._stream.time} is in the future"
                rejected += [(place, reason) for place in events[PLACE].filter(ahead)]
                events = events.filter(~ahead)
        messages = [
            RejectedMessage(self.source, offsets[place], reason, values[place])
            for place, reason in sorted(rejected)
        ]
        return _DecodedBatch(events, messages, decoded.tombstones)

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

    def refuse(rejected: Sequence[RejectedMessage]) -> None:
        reasons = [f"rows[{m.offset - first}]: {m.reason}" for m in rejected[:_MAX_REASONS]]
        raise DataError(
            f"{len(rejected)} rows are no events: {'; '.join(reasons)}.", "None was merged.", "rows"
        )

    stream = ClassStream(store, layout, namespace, policy=policy, quarantine=refuse)
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
