"""Progress of a stream in each partition, stored in the transactions that change its tiles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.streaming.ingest import GuardedWrite


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
    """

    next_offset: int | None = None
    latest_us: int | None = None
    events: int = 0
    late: int = 0
    dropped: int = 0
    quarantined: int = 0

    def advance(
        self,
        next_offset: int,
        latest_us: int | None,
        *,
        events: int,
        late: int = 0,
        dropped: int = 0,
        quarantined: int = 0,
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
