"""Stored form of one entity's tiles: a head with partial results, and each tile's events.

Both are MessagePack. A head is stored by column, one value per tile, so that a window is a slice
of each.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import msgspec

from sunloom.feature_store.online.tile_layout import Index
from sunloom.feature_store.online.tile_partials import slot_kind
from sunloom.feature_store.stores.online.key_value import MAX_KEY_BYTES

# Added to a tile's number, which may be negative, so that its bytes sort as the numbers do.
_SIGN = 1 << 63
_TILE_BYTES = 8
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
BEFORE_ALL_US = -(1 << 62)


def entity_key(index: Index, values: Sequence[Any]) -> bytes:
    """The stored key of one entity in an index."""
    # All indexes share one space: the number keeps their keys apart.
    packed = _encoder.encode([index.number, *values])
    if len(packed) <= MAX_KEY_BYTES - _TILE_BYTES:
        return packed
    # LMDB bounds the length of keys; 256 bits of hash do not collide in practice.
    return _encoder.encode([index.number, hashlib.blake2b(packed, digest_size=32).digest()])


def tile_key(key: bytes, tile: int) -> bytes:
    """The stored key of one tile's events."""
    return key + (tile + _SIGN).to_bytes(_TILE_BYTES, "big")


class EntityHead:
    """One entity's tiles.

    Args:
        raw: The head as stored; None for a new entity.
        slots: Number of the index's slots.

    Attributes:
        floor_us: Tiles before this time have been merged into ``life``.
        life: Their number of events and partial results; None where there were none.
        tiles: Numbers of the tiles that are kept, ascending.
        starts: Their first events' times.
        ends: Their last events' times.
        counts: Their numbers of events.
        states: One list per slot, one partial result per tile.
    """

    __slots__ = ("counts", "ends", "floor_us", "life", "starts", "states", "tiles")

    def __init__(self, raw: bytes | None, slots: int) -> None:
        if raw is None:
            self.floor_us: int = BEFORE_ALL_US
            self.life: list[Any] | None = None
            self.tiles: list[int] = []
            self.starts: list[int] = []
            self.ends: list[int] = []
            self.counts: list[int] = []
            self.states: list[list[Any]] = [[] for _ in range(slots)]
        else:
            (
                self.floor_us,
                self.life,
                self.tiles,
                self.starts,
                self.ends,
                self.counts,
                self.states,
            ) = _decoder.decode(raw)

    def encode(self) -> bytes:
        """The head as it is stored."""
        columns = (self.tiles, self.starts, self.ends, self.counts, self.states)
        return _encoder.encode((self.floor_us, self.life, *columns))


class HeadMerger:
    """Merges batches into the heads of one index.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._merges = [slot_kind(slot).merge for slot in index.slots]

    def add(
        self,
        head: EntityHead,
        *,
        tile: int,
        start_us: int,
        end_us: int,
        events: int,
        partials: Sequence[Any],
    ) -> bool:
        """Merge a batch's events of one tile into it.

        Args:
            head: The entity's head.
            tile: The tile's number.
            start_us: Time of the first event.
            end_us: Time of the last event.
            events: Number of events.
            partials: Their partial result for each slot.

        Returns:
            False where the events need not be kept themselves.
        """
        if (tile + 1) * self.index.tile_us <= head.floor_us:
            # The tile is gone: a late event can only be added to the totals.
            self._merge_into_life(head, events, [[partial] for partial in partials])
            return False
        tiles = head.tiles
        # Events arrive in order, nearly always for the latest tile or the one after it.
        place = len(tiles) - 1 if tiles and tiles[-1] == tile else bisect_left(tiles, tile)
        if place < len(tiles) and tiles[place] == tile:
            head.starts[place] = min(head.starts[place], start_us)
            head.ends[place] = max(head.ends[place], end_us)
            head.counts[place] += events
            for merge, column, partial in zip(self._merges, head.states, partials, strict=True):
                column[place] = merge((column[place], partial))
            return True
        tiles.insert(place, tile)
        head.starts.insert(place, start_us)
        head.ends.insert(place, end_us)
        head.counts.insert(place, events)
        for column, partial in zip(head.states, partials, strict=True):
            column.insert(place, partial)
        return True

    def raise_floor(self, head: EntityHead, time_us: int) -> list[int]:
        """Merge tiles that end by the time into ``life``; the numbers of these tiles."""
        width = self.index.tile_us
        # Whole tiles only: a window may still have an edge in the one that the time is in.
        floor = time_us // width * width
        if floor <= head.floor_us:
            return []
        head.floor_us = floor
        expired = bisect_left(head.tiles, floor // width)
        if not expired:
            return []
        partials = [column[:expired] for column in head.states]
        self._merge_into_life(head, sum(head.counts[:expired]), partials)
        numbers = head.tiles[:expired]
        for column in (head.tiles, head.starts, head.ends, head.counts, *head.states):
            del column[:expired]
        return numbers

    def _merge_into_life(self, head: EntityHead, count: int, partials: Sequence[list[Any]]) -> None:
        """Merge a number of events, given by any number of partial results for each slot."""
        if head.life is not None:
            known, *totals = head.life
            count += known
            partials = [[total, *parts] for total, parts in zip(totals, partials, strict=True)]
        merged = (merge(parts) for merge, parts in zip(self._merges, partials, strict=True))
        head.life = [count, *merged]


def pack_events(columns: Sequence[Sequence[Any]]) -> bytes:
    """Times and measures of a tile's events, in order of arrival."""
    return _encoder.encode(columns)


def unpack_events(raw: bytes) -> list[list[Any]]:
    """Times and measures of a tile's events, in order of arrival."""
    events: list[list[Any]] = _decoder.decode(raw)
    return events
