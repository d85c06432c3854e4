"""Events into the store: one batch is one transaction, and repeats change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from sunloom.errors import ConflictError
from sunloom.feature_store.online.tiles.heads import (
    Addition,
    Head,
    HeadMerger,
    key_bytes,
    pack_events,
    tile_key,
    unpack_events,
)
from sunloom.feature_store.online.tiles.index import Index, TileLayout
from sunloom.feature_store.online.tiles.partials import TIME, distinct, slot_kind
from sunloom.feature_store.stores.online.key_value import Write
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.features.engine.source_rows import SourceRows
from sunloom.features.plan.expressions import Expr

_MOST_TRIES = 50


@dataclass
class Changes:
    """Writes of one batch, and what the store must still hold for them to be right."""

    writes: list[Write] = field(default_factory=list)
    expected: list[Write] = field(default_factory=list)


class Ingest:
    """Merges events of streamed classes into a store.

    Args:
        store: Where tiles lie.
        layout: What to keep.
        lateness_us: How much later than the latest event an event may come and still find its
            tile's events kept.
    """

    def __init__(self, store: OnlineStore, layout: TileLayout, lateness_us: int) -> None:
        self._store = store
        self._lateness_us = lateness_us
        self._layout = layout
        self._indexes = {name: layout.of(name) for name in layout.streamed}
        self._mergers = {index.number: HeadMerger(index) for index in layout.indexes}

    def apply(
        self,
        namespace: str,
        events: pl.DataFrame,
        latest_us: int | None,
        also: Sequence[tuple[Write, bytes | None]] = (),
    ) -> None:
        """Merge a batch of one class, all or nothing.

        Args:
            namespace: The class.
            events: Its rows in their declared types, in order of arrival.
            latest_us: The latest event time seen so far; tiles too old for any window and late
                event go into their key's lifetime.
            also: Further writes of the same transaction, each with the value that must be there.

        Raises:
            ConflictError: One of ``also`` is not as expected: another writer has taken over.
        """
        rows = (
            SourceRows(self._layout.plan.class_plan(namespace), events) if events.height else None
        )
        grouped = [] if rows is None else [_grouped(i, rows) for i in self._indexes[namespace]]
        for _ in range(_MOST_TRIES):
            changes = Changes(
                [write for write, _ in also], [(w[0], w[1], held) for w, held in also]
            )
            for groups in grouped:
                self._merge(groups, latest_us, changes)
            if self._store.apply(changes.writes, changes.expected):
                return
            self._check(also)
        raise ConflictError(
            f"Another writer kept changing the same entities of {namespace!r}.",
            "Let one stream write a class's events.",
        )

    def _check(self, also: Sequence[tuple[Write, bytes | None]]) -> None:
        for (space, key, _), held in also:
            if self._store.get_many(space, [key])[0] != held:
                raise ConflictError(
                    f"Another writer has moved {key.decode(errors='replace')} on.",
                    "It goes on from there; this one must read its place anew.",
                )

    def _merge(self, groups: Groups, latest_us: int | None, changes: Changes) -> None:
        heads, tiles = self._layout.head_space, self._layout.tile_space
        held = self._store.get_many(heads, groups.keys)
        places = groups.places()
        blobs = self._store.get_many(tiles, places)
        floor = self._floor(groups.index, latest_us)
        writes = changes.writes
        # One key at a time: thousands of heads held at once would busy the garbage collector.
        for key, raw, (low, high) in zip(groups.keys, held, groups.runs, strict=True):
            head = Head(raw, len(groups.index.slots))
            merger = self._mergers[groups.index.number]
            for number in range(low, high):
                if merger.add(head, groups.addition(number)):
                    events = groups.packed(number, blobs[number])
                    writes.append((tiles, places[number], events))
            if floor is not None:
                gone = merger.raise_floor(head, floor)
                writes += [(tiles, tile_key(key, number), None) for number in gone]
            writes.append((heads, key, head.packed()))
            changes.expected.append((heads, key, raw))

    def _floor(self, index: Index, latest_us: int | None) -> int | None:
        """The moment before which no window can have an edge; None where events must stay."""
        if latest_us is None or index.keeps_events or index.time is None:
            return None
        return latest_us - self._lateness_us - index.horizon_us


@dataclass(frozen=True)
class Groups:
    """A batch's events by key and tile.

    Attributes:
        index: Where they belong.
        keys: Each stored key once.
        runs: Where each key's groups begin and end.
        tiles: Each group's tile.
        starts: Where each group's events begin in ``columns``, and the end of the last.
        columns: Times and measures of all events.
        states: Each group's partial results.
    """

    index: Index
    keys: list[bytes]
    runs: list[tuple[int, int]]
    tiles: list[int]
    starts: list[int]
    columns: list[list[Any]]
    states: list[tuple[Any, ...]]

    def places(self) -> list[bytes]:
        """Each group's stored tile."""
        return [
            tile_key(key, tile)
            for key, (low, high) in zip(self.keys, self.runs, strict=True)
            for tile in self.tiles[low:high]
        ]

    def addition(self, number: int) -> Addition:
        """What one group adds to its key's head."""
        low, high = self.starts[number], self.starts[number + 1]
        times = self.columns[0]
        return self.tiles[number], times[low], times[high - 1], high - low, self.states[number]

    def packed(self, number: int, blob: bytes | None) -> bytes:
        """One group's events after those that the tile holds already."""
        low, high = self.starts[number], self.starts[number + 1]
        events = [column[low:high] for column in self.columns]
        if blob is not None:
            events = [a + b for a, b in zip(unpack_events(blob), events, strict=True)]
        return pack_events(events)


def _grouped(index: Index, rows: SourceRows) -> Groups:
    frame = _events(index, rows)
    names = [f"k{place}" for place in range(len(index.keys))]
    runs = frame.group_by("group", maintain_order=True).agg(
        *(pl.col(name).first() for name in (*names, "tile", "key")),
        pl.len().alias("size"),
        *_slot_columns(index),
    )
    by_key = runs.group_by("key", maintain_order=True).agg(
        *(pl.col(name).first() for name in names), pl.len().alias("groups")
    )
    ends = by_key["groups"].cast(pl.Int64).cum_sum().to_list()
    sizes = runs["size"].cast(pl.Int64).cum_sum().to_list()
    columns = [f"m{place}" for place in range(len(index.measures))]
    keys = zip(*(by_key[name].to_list() for name in names), strict=True)
    slots = [_states(index, runs, place) for place in range(len(index.slots))]
    return Groups(
        index=index,
        keys=[key_bytes(index, key) for key in keys],
        runs=list(zip([0, *ends], ends, strict=False)),
        tiles=runs["tile"].to_list(),
        starts=[0, *sizes],
        columns=[frame[name].to_list() for name in (TIME, *columns)],
        states=list(zip(*slots, strict=True)) if slots else [()] * runs.height,
    )


def _events(index: Index, rows: SourceRows) -> pl.DataFrame:
    """Keys, time, tile and measures of each visible event, sorted by them, stably."""
    for name in (*index.keys, *((index.time,) if index.time else ())):
        rows.ensure(name)
    height = rows.frame.height
    keys = {f"k{place}": rows.frame[name] for place, name in enumerate(index.keys)}
    time = pl.zeros(height, pl.Int64, eager=True)
    if index.time is not None:
        time = rows.frame[index.time].cast(pl.Int64)
    measures = {
        f"m{place}": _measured(rows, m.value, m.where) for place, m in enumerate(index.measures)
    }
    frame = pl.DataFrame({**keys, TIME: time, **measures}).drop_nulls([*keys, TIME])
    frame = frame.sort([*keys, TIME], maintain_order=True)
    tile = (pl.col(TIME) // index.tile_us).alias("tile")
    key = pl.struct(*keys).rle_id().alias("key")
    return frame.with_columns(tile, key).with_columns(
        pl.struct("key", "tile").rle_id().alias("group")
    )


def _measured(rows: SourceRows, value: Expr, where: tuple[Expr, ...]) -> pl.Series:
    """The value as it is stored: null where a filter is not true."""
    series = rows.values(value)
    if series.len() != rows.frame.height:
        series = series.new_from_index(0, rows.frame.height)
    for condition in where:
        kept = rows.values(condition).fill_null(False)
        series = series.zip_with(kept, pl.Series([None], dtype=series.dtype))
    return series.cast(pl.Int64) if series.dtype.is_temporal() else series


def _slot_columns(index: Index) -> Iterator[pl.Expr]:
    for place, slot in enumerate(index.slots):
        if slot.kind == "row":
            parts: Sequence[pl.Expr] = [
                pl.col(TIME).last(),
                *(pl.col(f"m{m}").last() for m in index.row_measures),
            ]
        elif slot.measure < 0:
            parts = [pl.len().cast(pl.Int64)]
        else:
            parts = slot_kind(slot).frame(f"m{slot.measure}")
        yield from (part.alias(f"s{place}_{number}") for number, part in enumerate(parts))


def _states(index: Index, runs: pl.DataFrame, place: int) -> list[Any]:
    prefix = f"s{place}_"
    columns = [runs[name].to_list() for name in runs.columns if name.startswith(prefix)]
    if index.slots[place].kind == "row":
        return [[time, values] for time, *values in zip(*columns, strict=True)]
    if index.slots[place].kind == "distinct":
        return [distinct(values) for values in columns[0]]
    if len(columns) == 1:
        return columns[0]
    return [
        None if not row[0] and row[1] is None else list(row) for row in zip(*columns, strict=True)
    ]
