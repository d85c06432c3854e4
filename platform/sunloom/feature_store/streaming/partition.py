"""One partition's messages into the store, each exactly once."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from sunloom.errors import ConflictError, DataQualityError
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.online.tiles.policy import Policy
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.decode import MessageReader
from sunloom.feature_store.streaming.event_log import MESSAGE, OFFSET, EventLog
from sunloom.feature_store.streaming.ingest import Ingest
from sunloom.feature_store.streaming.offsets import Place, Progress
from sunloom.features.plan.feature_sets import ClassPlan
from sunloom.features.plan.projection import source_projections

_LEAST_SEEN = 1_000
_PLACE = "__place__"


@dataclass(frozen=True)
class Refused:
    """A message that cannot be used, and why."""

    source: str
    offset: int
    reason: str
    value: bytes | None


class ClassStream:
    """Everything that partitions with one class's events share.

    Args:
        store: Where tiles and places lie.
        layout: What to keep.
        namespace: The class.
        policy: Late events and unusable messages.
        refuse: Receives unusable messages, before the batch that they came in is stored.
        log: Keeps events for batch work, if given.
    """

    def __init__(
        self,
        store: OnlineStore,
        layout: TileLayout,
        namespace: str,
        policy: Policy,
        refuse: Callable[[Sequence[Refused]], None],
        log: EventLog | None = None,
    ) -> None:
        self.store = store
        self.layout = layout
        self.namespace = namespace
        self.policy = policy
        self.refuse = refuse
        self.log = log
        self.item = layout.plan.class_plan(namespace)
        self.ingest = Ingest(store, layout, policy.lateness_us)
        self.messages = MessageReader(self.item, *message_fields(layout, namespace))
        self.time = self.item.time


class PartitionStream:
    """One partition; it has one writer at a time, and a second one is found out.

    Args:
        stream: Its class's stream.
        source: ``topic/partition``.
    """

    def __init__(self, stream: ClassStream, source: str) -> None:
        self.source = source
        self._stream = stream
        self._place = Place.of(stream.layout, source)
        self._seen = self._bad = 0
        self.resume()

    def resume(self) -> int | None:
        """Read the stored place anew; the next offset, None before the first batch."""
        self.progress, self._raw = self._place.read(self._stream.store)
        return self.progress.next_offset

    def process(self, offsets: Sequence[int], values: Sequence[bytes | None]) -> Progress:
        """Store one batch in one transaction.

        Args:
            offsets: Of consecutive messages; those before the stored place are passed over.
            values: What they hold.

        Returns:
            The progress after it.

        Raises:
            ConflictError: Another writer has moved the partition on; ``resume`` before going on.
            DataQualityError: Too many messages could not be used; the batch is stored.
        """
        after = self.progress.next_offset
        known = 0 if after is None else bisect_left(offsets, after)
        offsets, values = offsets[known:], values[known:]
        if not offsets:
            return self.progress
        events, refused = self._usable(offsets, values)
        kept, late, latest_us = self._in_time(events)
        if refused:
            self._stream.refuse(refused)
        if self._stream.log is not None:
            self._check_place()
            first = offsets[0] if after is None else after
            logged = _logged(kept, offsets, values)
            self._stream.log.write(self._stream.namespace, self.source, first, logged)
        progress = self.progress.moved(
            offsets[-1] + 1,
            latest_us,
            events=kept.height,
            late=late,
            dropped=events.height - kept.height,
            quarantined=len(refused),
        )
        self._store(kept.drop(_PLACE), progress)
        self._count(len(offsets), len(refused))
        return progress

    def _check_place(self) -> None:
        """A writer that was replaced must not overwrite the log of the one that came after it."""
        if self._place.read(self._stream.store)[1] != self._raw:
            raise ConflictError(
                f"Another writer has moved {self.source} on.",
                "It goes on from there; this one must read its place anew.",
            )

    def _usable(
        self, offsets: Sequence[int], values: Sequence[bytes | None]
    ) -> tuple[pl.DataFrame, list[Refused]]:
        """Rows with their places in the batch, and the messages that are none."""
        decoded = self._stream.messages.decode(values)
        events = decoded.rows.with_columns(decoded.places.alias(_PLACE))
        bad = list(decoded.bad)
        if self._stream.time is not None and events.height:
            limit = time.time_ns() // 1_000 + self._stream.policy.ahead_us
            ahead = events[self._stream.time].cast(pl.Int64) > limit
            if ahead.any():
                reason = f"{self._stream.time} lies in the future"
                bad += [(place, reason) for place in decoded.places.filter(ahead)]
                events = events.filter(~ahead)
        refused = [
            Refused(self.source, offsets[place], reason, values[place])
            for place, reason in sorted(bad)
        ]
        return events, refused

    def _store(self, events: pl.DataFrame, progress: Progress) -> None:
        packed = progress.packed()
        write = (self._place.space, self._place.key, packed)
        self._stream.ingest.apply(
            self._stream.namespace, events, progress.latest_us, [(write, self._raw)]
        )
        self.progress, self._raw = progress, packed

    def _in_time(self, events: pl.DataFrame) -> tuple[pl.DataFrame, int, int | None]:
        """Events to merge, how many were late, and the latest time now.

        Each is measured against all before it in the partition, so where batches end has no say.
        """
        latest_us = self.progress.latest_us
        if self._stream.time is None or not events.height:
            return events, 0, latest_us
        times = events[self._stream.time].cast(pl.Int64)
        running = times.cum_max()
        if latest_us is not None:
            running = running.clip(lower_bound=latest_us)
        late = times < running - self._stream.policy.lateness_us
        unwanted = late if self._stream.policy.drops_late else late & False
        if (after := self._stream.policy.after_us) is not None:
            unwanted |= times <= after
        kept = events.filter(~unwanted) if unwanted.any() else events
        return kept, int(late.sum()), int(running[-1])

    def _count(self, seen: int, bad: int) -> None:
        self._seen, self._bad = self._seen + seen, self._bad + bad
        share = self._stream.policy.max_bad_share
        if self._bad > share * max(self._seen, _LEAST_SEEN):
            raise DataQualityError(
                f"{self._bad} of {self._seen} messages of {self.source} could not be used, more "
                f"than {share:.2%}.",
                "Look at the quarantine; mend the producer or raise max_bad_share.",
            )


def _logged(
    kept: pl.DataFrame, offsets: Sequence[int], values: Sequence[bytes | None]
) -> pl.DataFrame:
    """Rows with offset and message, for the log."""
    places = kept[_PLACE]
    return kept.drop(_PLACE).with_columns(
        pl.Series(OFFSET, offsets, dtype=pl.Int64).gather(places),
        pl.Series(MESSAGE, values, dtype=pl.Binary).gather(places),
    )


def message_fields(layout: TileLayout, namespace: str) -> tuple[list[str], list[str]]:
    """Features that a message may hold, and those that it must."""
    item = layout.plan.class_plan(namespace)
    wanted = set(source_projections(layout.plan)[namespace].columns)
    indexes = layout.of(namespace)
    wanted |= {name for index in indexes for name in index.columns}
    times = {index.time for index in indexes if index.time is not None}
    keys = {key for index in indexes for key in index.keys}
    names = [f.name for f in item.features if f.expression is None and f.name in wanted | times]
    return names, [name for name in names if name in times or _always_keyed(item, keys, name)]


def _always_keyed(item: ClassPlan, keys: set[str], name: str) -> bool:
    """A key without which no index finds the event: where there is but one."""
    return keys == {name} and item.feature(name).expression is None
