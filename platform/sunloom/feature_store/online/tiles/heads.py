"""What is stored of one key: a head with the partial results of its tiles, and each tile's events.

Both are MessagePack. A head's columns stand side by side, one value a tile, so that a window is a
slice of each.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import msgspec

from sunloom.feature_store.online.tiles.index import Index
from sunloom.feature_store.online.tiles.partials import slot_kind
from sunloom.feature_store.stores.online.key_value import MAX_KEY_BYTES

_SIGN = 1 << 63
_TILE_BYTES = 8
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
BEFORE_ALL = -(1 << 62)


def key_bytes(index: Index, values: Sequence[Any]) -> bytes:
    """The stored key of one entity in an index."""
    packed = _encoder.encode([index.number, *values])
    if len(packed) <= MAX_KEY_BYTES - _TILE_BYTES:
        return packed
    return _encoder.encode([index.number, hashlib.blake2b(packed, digest_size=32).digest()])


def tile_key(key: bytes, tile: int) -> bytes:
    """The stored key of one tile's events."""
    return key + (tile + _SIGN).to_bytes(_TILE_BYTES, "big")


class Head:
    """One key's tiles.

    Attributes:
        floor_us: Tiles before this moment have gone into ``life``.
        life: Their partial results and number of events; None where there were none.
        tiles: Numbers of the tiles that are kept, ascending.
        starts: Their first events' times.
        ends: Their last events' times.
        counts: Their numbers of events.
        states: One list a slot, one partial result a tile.
    """

    __slots__ = ("counts", "ends", "floor_us", "life", "starts", "states", "tiles")

    def __init__(self, raw: bytes | None, slots: int) -> None:
        if raw is None:
            self.floor_us: int = BEFORE_ALL
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

    def packed(self) -> bytes:
        """The head as bytes."""
        columns = (self.tiles, self.starts, self.ends, self.counts, self.states)
        return _encoder.encode((self.floor_us, self.life, *columns))


Addition = tuple[int, int, int, int, Sequence[Any]]
"""What a batch adds to a tile: its number, first and last time, number of events, states."""


class HeadMerger:
    """Merges batches into the heads of one index.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._merges = [slot_kind(slot).merge for slot in index.slots]

    def add(self, head: Head, addition: Addition) -> bool:
        """Merge what comes to a tile; False where its events need not be kept."""
        number, start, end, count, states = addition
        if (number + 1) * self.index.tile_us <= head.floor_us:
            self._into_life(head, count, states)
            return False
        tiles = head.tiles
        # Nearly always the latest tile, or the one after it.
        place = len(tiles) - 1 if tiles and tiles[-1] == number else bisect_left(tiles, number)
        if place < len(tiles) and tiles[place] == number:
            head.starts[place] = min(head.starts[place], start)
            head.ends[place] = max(head.ends[place], end)
            head.counts[place] += count
            for merge, column, state in zip(self._merges, head.states, states, strict=True):
                column[place] = merge(column[place], state)
            return True
        tiles.insert(place, number)
        head.starts.insert(place, start)
        head.ends.insert(place, end)
        head.counts.insert(place, count)
        for column, state in zip(head.states, states, strict=True):
            column.insert(place, state)
        return True

    def raise_floor(self, head: Head, moment_us: int) -> list[int]:
        """Let tiles that end by the moment go into ``life``; their numbers."""
        width = self.index.tile_us
        floor = moment_us // width * width
        if floor <= head.floor_us:
            return []
        head.floor_us = floor
        gone = bisect_left(head.tiles, floor // width)
        if not gone:
            return []
        for place in range(gone):
            self._into_life(head, head.counts[place], [column[place] for column in head.states])
        numbers = head.tiles[:gone]
        for column in (head.tiles, head.starts, head.ends, head.counts, *head.states):
            del column[:gone]
        return numbers

    def _into_life(self, head: Head, count: int, states: Sequence[Any]) -> None:
        held = head.life
        if held is None:
            head.life = [count, *states]
            return
        merged = [
            merge(old, new) for merge, old, new in zip(self._merges, held[1:], states, strict=True)
        ]
        head.life = [held[0] + count, *merged]


def pack_events(columns: Sequence[Sequence[Any]]) -> bytes:
    """Times and measures of a tile's events, in order of arrival."""
    return _encoder.encode(columns)


def unpack_events(raw: bytes) -> list[list[Any]]:
    """Times and measures of a tile's events, in order of arrival."""
    events: list[list[Any]] = _decoder.decode(raw)
    return events
