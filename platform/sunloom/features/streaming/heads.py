"""What is stored of one key: a head with the partial results of its tiles, and each tile's events.

Both are MessagePack. A head's columns stand side by side, one value a tile, so that a window is a
slice of each.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import msgspec

from sunloom.features.store.keyvalue import MAX_KEY_BYTES
from sunloom.features.streaming.layout import Index, Slot
from sunloom.features.streaming.slots import SlotKind, slot_kind

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

    def between(self, start_us: int | None, end_us: int | None, tile_us: int) -> tuple[int, int]:
        """Places of the tiles that the range touches, by the tiles' own numbers."""
        low = 0 if start_us is None else bisect_left(self.tiles, start_us // tile_us)
        high = (
            len(self.tiles) if end_us is None else bisect_right(self.tiles, (end_us - 1) // tile_us)
        )
        return low, max(low, high)


class Tile:
    """What a batch adds to one tile of one key: as a head keeps it."""

    __slots__ = ("count", "end", "number", "start", "states")

    def __init__(self, number: int, start: int, end: int, count: int, states: list[Any]) -> None:
        self.number = number
        self.start = start
        self.end = end
        self.count = count
        self.states = states


class HeadMerger:
    """Merges batches into the heads of one index.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.kinds = [_kind(slot) for slot in index.slots]

    def add(self, head: Head, tile: Tile) -> bool:
        """Merge a tile's addition; False where its events need not be kept."""
        if (tile.number + 1) * self.index.tile_us <= head.floor_us:
            self._into_life(head, tile)
            return False
        place = bisect_left(head.tiles, tile.number)
        if place < len(head.tiles) and head.tiles[place] == tile.number:
            head.starts[place] = min(head.starts[place], tile.start)
            head.ends[place] = max(head.ends[place], tile.end)
            head.counts[place] += tile.count
            for kind, column, state in zip(self.kinds, head.states, tile.states, strict=True):
                column[place] = kind.fold((column[place], state))
            return True
        head.tiles.insert(place, tile.number)
        head.starts.insert(place, tile.start)
        head.ends.insert(place, tile.end)
        head.counts.insert(place, tile.count)
        for kind, column, state in zip(self.kinds, head.states, tile.states, strict=True):
            column.insert(place, kind.fold((state,)))
        return True

    def raise_floor(self, head: Head, moment_us: int) -> list[int]:
        """Let tiles that end by the moment go into ``life``; their numbers."""
        floor = moment_us // self.index.tile_us * self.index.tile_us
        if floor <= head.floor_us:
            return []
        gone = bisect_left(head.tiles, floor // self.index.tile_us)
        for place in range(gone):
            states = [column[place] for column in head.states]
            self._into_life(head, Tile(0, 0, 0, head.counts[place], states))
        numbers = head.tiles[:gone]
        for column in (head.tiles, head.starts, head.ends, head.counts, *head.states):
            del column[:gone]
        head.floor_us = floor
        return numbers

    def _into_life(self, head: Head, tile: Tile) -> None:
        held = head.life
        if held is None:
            states = [kind.fold((s,)) for kind, s in zip(self.kinds, tile.states, strict=True)]
            head.life = [tile.count, *states]
            return
        folded = [
            kind.fold((old, new))
            for kind, old, new in zip(self.kinds, held[1:], tile.states, strict=True)
        ]
        head.life = [held[0] + tile.count, *folded]


def pack_events(columns: Sequence[Sequence[Any]]) -> bytes:
    """Times and measures of a tile's events, in order of arrival."""
    return _encoder.encode(columns)


def unpack_events(raw: bytes) -> list[list[Any]]:
    """Times and measures of a tile's events, in order of arrival."""
    events: list[list[Any]] = _decoder.decode(raw)
    return events


def _kind(slot: Slot) -> SlotKind:
    return slot_kind(slot)
