"""Ingestion of events into tiles; each batch is one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from sunloom.errors import ConflictError
from sunloom.feature_store.online.tile_heads import (
    EntityHead,
    HeadMerger,
    entity_key,
    pack_events,
    tile_key,
    unpack_events,
)
from sunloom.feature_store.online.tile_layout import Index, Slot, TileLayout
from sunloom.feature_store.online.tile_partials import TIME, GroupedValues, slot_kind
from sunloom.feature_store.stores.online.key_value import Write
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.features.engine.source_rows import SourceRows
from sunloom.features.plan.expressions import Expr

# Each attempt reads the heads anew; only as many writers of the same entities would use them up.
_MAX_ATTEMPTS = 50


class GuardedWrite(NamedTuple):
    """A write of the same transaction, valid only while the key holds a given value.

    Attributes:
        write: Space, key and new value.
        expected: The value that the key must hold; None for none.
    """

    write: Write
    expected: bytes | None


@dataclass
class _Transaction:
    """Writes of one batch, and what the store must still hold for them to be right."""

    writes: list[Write] = field(default_factory=list)
    expected: list[Write] = field(default_factory=list)


class TileIngest:
    """Merges events of streamed classes into a store.

    Args:
        store: The store of the tiles.
        layout: Their layout.
        lateness_us: How far behind the latest event an event may arrive and still be kept itself.
    """

    def __init__(self, store: OnlineStore, layout: TileLayout, lateness_us: int) -> None:
        self._store = store
        self._lateness_us = lateness_us
        self._layout = layout
        self._indexes = {name: layout.indexes_of(name) for name in layout.streamed}
        self._mergers = {index.number: HeadMerger(index) for index in layout.indexes}

    def apply(
        self,
        namespace: str,
        events: pl.DataFrame,
        latest_us: int | None,
        guard: GuardedWrite | None = None,
    ) -> None:
        """Merge a batch of one class, all or nothing.

        Args:
            namespace: The class.
            events: Its rows in their declared types, in order of arrival.
            latest_us: The watermark: the latest event time so far. Tiles too old for any window
                and any late event are merged into their entity's lifetime totals.
            guard: A further write of the same transaction.

        Raises:
            ConflictError: The guarded key holds another value: another writer has taken over.
        """
        rows = (
            SourceRows(self._layout.plan.class_plan(namespace), events) if events.height else None
        )
        # Grouped once: between attempts only the stored heads differ.
        grouped = [] if rows is None else [_group_events(i, rows) for i in self._indexes[namespace]]
        for _ in range(_MAX_ATTEMPTS):
            transaction = _Transaction()
            if guard is not None:
                (space, key, value), expected = guard
                transaction.writes.append((space, key, value))
                transaction.expected.append((space, key, expected))
            for groups in grouped:
                self._merge(groups, latest_us, transaction)
            if self._store.apply(transaction.writes, transaction.expected):
                return
            # The store does not say which value differed: the guard's is final, a head is merged
            # again.
            if guard is not None:
                self.check_guard(guard)
        raise ConflictError(
            f"Another writer kept changing the same entities of {namespace!r}.",
            "Let one stream write a class's events.",
        )

    def check_guard(self, guard: GuardedWrite) -> None:
        """Check that the guarded key holds the expected value.

        Raises:
            ConflictError: It does not.
        """
        (space, key, _), expected = guard
        if self._store.get_many(space, [key])[0] != expected:
            raise ConflictError(
                f"Another writer has advanced {key.decode(errors='replace')}.",
                "It goes on from there; this one must read the stored offset again.",
            )

    def _merge(self, groups: EventGroups, latest_us: int | None, transaction: _Transaction) -> None:
        head_space, tile_space = self._layout.head_space, self._layout.tile_space
        # Only heads are compared at the end: a tile never changes without its head.
        raw_heads = self._store.get_many(head_space, groups.keys)
        tile_keys = groups.tile_keys()
        blobs = self._store.get_many(tile_space, tile_keys)
        index, times = groups.index, groups.columns[0]
        # Before the floor no window can have an edge; without one all events must stay.
        floor = None
        if latest_us is not None and index.time is not None and not index.keeps_events:
            floor = latest_us - self._lateness_us - index.horizon_us
        merger = self._mergers[index.number]
        writes = transaction.writes
        # One entity at a time: thousands of decoded heads at once would keep the garbage
        # collector busy.
        for key, raw, (first, stop) in zip(groups.keys, raw_heads, groups.runs, strict=True):
            head = EntityHead(raw, len(index.slots))
            for number in range(first, stop):
                begin, end = groups.starts[number], groups.starts[number + 1]
                is_kept = merger.add(
                    head,
                    tile=groups.tiles[number],
                    start_us=times[begin],
                    end_us=times[end - 1],
                    events=end - begin,
                    partials=groups.partials[number],
                )
                if is_kept:
                    events = groups.pack_tile(number, blobs[number])
                    writes.append((tile_space, tile_keys[number], events))
            if floor is not None:
                expired = merger.raise_floor(head, floor)
                writes += [(tile_space, tile_key(key, tile), None) for tile in expired]
            writes.append((head_space, key, head.encode()))
            transaction.expected.append((head_space, key, raw))


@dataclass(frozen=True)
class EventGroups:
    """A batch's events grouped by entity and tile.

    Attributes:
        index: Their index.
        keys: Each entity's stored key.
        runs: First and last group of each entity, the last one exclusive.
        tiles: Each group's tile.
        starts: Where each group's events begin in ``columns``, and the end of the last group.
        columns: Times and measures of all events.
        partials: Each group's partial result for each slot.
    """

    index: Index
    keys: list[bytes]
    runs: list[tuple[int, int]]
    tiles: list[int]
    starts: list[int]
    columns: list[list[Any]]
    partials: list[tuple[Any, ...]]

    def tile_keys(self) -> list[bytes]:
        """The stored key of each group's tile."""
        return [
            tile_key(key, tile)
            for key, (first, stop) in zip(self.keys, self.runs, strict=True)
            for tile in self.tiles[first:stop]
        ]

    def pack_tile(self, number: int, stored: bytes | None) -> bytes:
        """One group's events behind those that the tile holds already."""
        first, stop = self.starts[number], self.starts[number + 1]
        events = [column[first:stop] for column in self.columns]
        if stored is not None:
            events = [old + new for old, new in zip(unpack_events(stored), events, strict=True)]
        return pack_events(events)


def _group_events(index: Index, rows: SourceRows) -> EventGroups:
    frame = _event_frame(index, rows)
    key_names = [f"k{place}" for place in range(len(index.keys))]
    groups = frame.group_by("group", maintain_order=True).agg(
        *(pl.col(name).first() for name in (*key_names, "tile", "entity")),
        pl.len().alias("size"),
        *_slot_columns(index),
    )
    entities = groups.group_by("entity", maintain_order=True).agg(
        *(pl.col(name).first() for name in key_names), pl.len().alias("groups")
    )
    ends = entities["groups"].cast(pl.Int64).cum_sum().to_list()
    sizes = groups["size"].cast(pl.Int64).cum_sum().to_list()
    columns = [f"m{place}" for place in range(len(index.measures))]
    keys = zip(*(entities[name].to_list() for name in key_names), strict=True)
    starts = [0, *sizes]
    lists = [frame[name].to_list() for name in (TIME, *columns)]
    slots = []
    for place, slot in enumerate(index.slots):
        parts = [groups[name] for name in groups.columns if name.startswith(f"s{place}_")]
        # A slot without a measure has no values of its own: neither counts nor rows need any.
        slots.append(_slot_partials(slot, parts, GroupedValues(lists[1 + slot.measure], starts)))
    return EventGroups(
        index=index,
        keys=[entity_key(index, key) for key in keys],
        runs=list(zip([0, *ends], ends, strict=False)),
        tiles=groups["tile"].to_list(),
        starts=starts,
        columns=lists,
        partials=list(zip(*slots, strict=True)) if slots else [()] * groups.height,
    )


def _event_frame(index: Index, rows: SourceRows) -> pl.DataFrame:
    """Keys, time, tile and measures of each visible event, sorted by keys and time, stably."""
    for name in (*index.keys, *((index.time,) if index.time else ())):
        rows.compute_column(name)
    height = rows.frame.height
    keys = {f"k{place}": rows.frame[name] for place, name in enumerate(index.keys)}
    time = pl.zeros(height, pl.Int64, eager=True)
    if index.time is not None:
        time = rows.frame[index.time].cast(pl.Int64)
    measures = {
        f"m{place}": _measure_values(rows, m.value, m.where)
        for place, m in enumerate(index.measures)
    }
    # A null key joins nothing, and an event without a time is in no window.
    frame = pl.DataFrame({**keys, TIME: time, **measures}).drop_nulls([*keys, TIME])
    frame = frame.sort([*keys, TIME], maintain_order=True)
    # The rows are sorted: run lengths number entities and groups without a hash table.
    tile = (pl.col(TIME) // index.tile_us).alias("tile")
    entity = pl.struct(*keys).rle_id().alias("entity")
    return frame.with_columns(tile, entity).with_columns(
        pl.struct("entity", "tile").rle_id().alias("group")
    )


def _measure_values(rows: SourceRows, value: Expr, where: tuple[Expr, ...]) -> pl.Series:
    """The values as they are stored: null where a filter is not true."""
    series = rows.values(value)
    # A constant has one value for all rows.
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


def _slot_partials(slot: Slot, columns: Sequence[pl.Series], values: GroupedValues) -> list[Any]:
    if slot.kind == "row":
        lists = (column.to_list() for column in columns)
        return [[time, values] for time, *values in zip(*lists, strict=True)]
    return slot_kind(slot).groups(columns, values)
