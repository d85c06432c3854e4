"""How far a stream has come in each partition, kept in the store beside what it wrote."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.stores.online.protocol import OnlineStore


@dataclass(frozen=True)
class Progress:
    """A partition's place and counts; they change in the same transaction as the tiles.

    Attributes:
        next_offset: The first message that is not in the store; None before the first batch.
        latest_us: Latest event time seen, microseconds.
        events: Events merged.
        late: Events that came later than allowed.
        dropped: Events that were not merged: late ones, and those that history holds.
        quarantined: Messages that could not be used.
    """

    next_offset: int | None = None
    latest_us: int | None = None
    events: int = 0
    late: int = 0
    dropped: int = 0
    quarantined: int = 0

    def moved(
        self,
        next_offset: int,
        latest_us: int | None,
        *,
        events: int,
        late: int,
        dropped: int,
        quarantined: int,
    ) -> Progress:
        """The progress after a batch."""
        return replace(
            self,
            next_offset=next_offset,
            latest_us=latest_us,
            events=self.events + events,
            late=self.late + late,
            dropped=self.dropped + dropped,
            quarantined=self.quarantined + quarantined,
        )

    def packed(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Place:
    """Where a partition's progress lies."""

    space: str
    key: bytes

    @classmethod
    def of(cls, layout: TileLayout, source: str) -> Place:
        """The place of one source of events, such as ``topic/3``."""
        return cls(layout.offset_space, source.encode())

    def read(self, store: OnlineStore) -> tuple[Progress, bytes | None]:
        """The progress, and the bytes that hold it."""
        raw = store.get_many(self.space, [self.key])[0]
        return (Progress() if raw is None else Progress(**json.loads(raw))), raw


def all_progress(store: OnlineStore, layout: TileLayout) -> dict[str, Progress]:
    """Source to progress, of everything that was streamed for this layout."""
    found = store.scan(layout.offset_space)
    return {key.decode(): Progress(**json.loads(raw)) for key, raw in found}
