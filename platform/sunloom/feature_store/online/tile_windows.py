"""Windows over one entity's tiles as of one time, and the aggregations of them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sunloom.errors import DataError, UsageError
from sunloom.feature_store.online.tile_heads import EntityHead
from sunloom.feature_store.online.tile_layout import Index, Reading, visible_span
from sunloom.feature_store.online.tile_partials import SlotKind, slot_kind
from sunloom.features.expressions.literals import python_value
from sunloom.features.kernels.aggregates import aggregate_series
from sunloom.features.kernels.exact_sums import to_float
from sunloom.features.kernels.ranges import Ranges
from sunloom.features.plan.expressions import Aggregate, Expr
from sunloom.features.plan.polars_dtypes import POLARS

Events = list[tuple[int, Sequence[Any]]]
"""Event time and measures of each event."""
Aggregation = Callable[["EntityTiles"], Any]
Finalizer = Callable[[Sequence[Any]], Any]
_FIRST_US, _LAST_US = -(1 << 63), 1 << 63


# Each read makes one window per entity and span; made this way it takes a quarter of the time.
_new_tuple = tuple.__new__


class TileWindow(NamedTuple):
    """The tiles of one window, ``tiles[first:stop]``, and its edges.

    Attributes:
        first: Position of the first tile.
        stop: Position behind the last tile.
        edge_tiles: Positions of tiles that an edge goes through: only part of their events count.
        start_us: The window's start, inclusive; ``_FIRST_US`` where it reaches back without limit.
        end_us: The window's end, exclusive.
    """

    first: int
    stop: int
    edge_tiles: tuple[int, ...]
    start_us: int
    end_us: int


class IndexReader:
    """What reading the heads of one index needs, derived once per layout.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.kinds: list[SlotKind] = [slot_kind(slot) for slot in index.slots]
        self.folds = [kind.fold or kind.merge for kind in self.kinds]
        self.spans = [(span.start_ago_us, span.end_ago_us) for span in index.spans]
        self.unknown_entity = EntityTiles(self, None, 0)
        self._row_slot = next((p for p, s in enumerate(index.slots) if s.kind == "row"), -1)
        visible = visible_span(index.time)
        self._row_span = index.spans.index(visible) if visible in index.spans else -1

    def latest_row(self, entity: EntityTiles) -> dict[str, Any] | None:
        """Features of the latest visible row; None where there is no row."""
        partial = entity.partial_result(self._row_span, self._row_slot)
        if partial is None:
            return None
        index = self.index
        return {
            name: python_value(value, index.measures[place].dtype)
            for name, place, value in zip(
                index.columns, index.row_measures, partial[1], strict=True
            )
        }


class EntityTiles:
    """One entity's tiles in one index as of one time.

    Args:
        reader: The index's reader.
        raw: Its head as stored; None for an unknown entity.
        now_us: The as-of time, microseconds since the epoch.
    """

    # One per entity and index of every read: slots save a dict each.
    __slots__ = ("_events", "_reader", "head", "is_known", "windows")

    def __init__(self, reader: IndexReader, raw: bytes | None, now_us: int) -> None:
        self._reader = reader
        self.is_known = raw is not None
        self.head = EntityHead(raw, len(reader.index.slots))
        self._events: dict[int, Events] = {}
        self.windows = [self._locate_window(start, end, now_us) for start, end in reader.spans]

    def tiles_to_fetch(self) -> dict[int, None]:
        """Tiles whose events are needed: an edge goes through them, or all events are read."""
        tiles = self.head.tiles
        if self._reader.index.reads_events:
            return dict.fromkeys(
                tile for first, stop, *_ in self.windows for tile in tiles[first:stop]
            )
        return {tiles[place]: None for window in self.windows for place in window.edge_tiles}

    def add_events(self, tile: int, columns: Sequence[Sequence[Any]]) -> None:
        """Events of a fetched tile: times and measures, in order of arrival."""
        times, *measures = columns
        rows = zip(*measures, strict=True) if measures else ((),) * len(times)
        # The sort is stable: events of equal times stay in order of arrival.
        self._events[tile] = sorted(zip(times, rows, strict=True), key=itemgetter(0))

    def partial_result(self, span: int, slot: int) -> Any:
        """A slot's partial result over a window."""
        window = self.windows[span]
        first, stop, edge_tiles, start_us, _ = window
        # A slice is a copy: replacing partial results in it leaves the head as it is stored.
        partials = self.head.states[slot][first:stop]
        for place in edge_tiles:
            partials[place - first] = self._partial_of_events(place, window, slot)
        # Tiles before the floor were merged into ``life``; only an unbounded window counts them.
        if start_us == _FIRST_US and self.head.life is not None:
            partials.insert(0, self.head.life[1 + slot])
        return self._reader.folds[slot](partials)

    def events(self, span: int) -> Events:
        """Every event in a window, by time, then arrival."""
        window = self.windows[span]
        return [
            event
            for place in range(window.first, window.stop)
            for event in self._events_within(place, window)
        ]

    def _partial_of_events(self, place: int, window: TileWindow, slot_place: int) -> Any:
        index = self._reader.index
        slot, events = index.slots[slot_place], self._events_within(place, window)
        timed: list[tuple[int, Any]]
        if slot.kind == "row":
            timed = [(at, [values[m] for m in index.row_measures]) for at, values in events]
        elif slot.measure < 0:
            timed = list(events)
        else:
            measure = slot.measure
            timed = [(at, row[measure]) for at, row in events if row[measure] is not None]
        return self._reader.kinds[slot_place].events(timed)

    def _events_within(self, place: int, window: TileWindow) -> Events:
        start, end = window.start_us, window.end_us
        return [event for event in self._events[self.head.tiles[place]] if start <= event[0] < end]

    def _locate_window(self, start_ago: int | None, end_ago: int | None, now_us: int) -> TileWindow:
        head = self.head
        start = _FIRST_US if start_ago is None else now_us - start_ago
        end = _LAST_US if end_ago is None else now_us - end_ago
        # An unbounded window counts the totals whole; only its end may be too early.
        if head.life is not None and (end if start_ago is None else start) < head.floor_us:
            raise UsageError(
                f"The as-of time is too early: of events before "
                f"{python_value(head.floor_us, 'datetime').isoformat()} only totals are kept.",
                "Give a later time, use `features historical`, or allow more lateness.",
                "now",
            )
        tiles, width = head.tiles, self._reader.index.tile_us
        first = 0 if start_ago is None else bisect_left(tiles, start // width)
        # The end is exclusive: a tile that begins at it has no event in the window.
        stop = len(tiles) if end_ago is None else bisect_right(tiles, (end - 1) // width)
        if first >= stop:
            return _new_tuple(TileWindow, (first, first, (), start, end))
        edge_tiles: tuple[int, ...] = ()
        # A tile counts as cut only where an edge separates its first from its last event, so that
        # most reads need no events at all.
        if head.starts[first] < start or head.ends[first] >= end:
            edge_tiles = (first,)
        if first < stop - 1 and head.ends[stop - 1] >= end:
            edge_tiles = (*edge_tiles, stop - 1)
        return _new_tuple(TileWindow, (first, stop, edge_tiles, start, end))


def build_aggregation(node: Aggregate, reading: Reading, index: Index) -> Aggregation:
    """The aggregation as a function of an entity's tiles."""
    span, slots = reading.span, reading.slots
    if not slots:
        return lambda entity: aggregate_events(node, reading, index, entity.events(span))
    finalize = aggregate_finalizer(node)
    # One closure per shape: a read of many entities calls it for each.
    if finalize is None:
        only = slots[0]
        return lambda entity: entity.partial_result(span, only)
    if len(slots) == 1:
        only = slots[0]
        return lambda entity: finalize((entity.partial_result(span, only),))
    return lambda entity: finalize([entity.partial_result(span, slot) for slot in slots])


def aggregate_finalizer(node: Aggregate) -> Finalizer | None:
    """Turns a window's partial results into the aggregation's value; None where they are it."""
    dtype = node.value.dtype if node.value is not None else "int64"
    if node.kind == "count":
        return None
    if node.kind == "sum" and node.dtype == "float64":
        return lambda partials: to_float(partials[0])
    if node.kind == "sum":
        return lambda partials: _check_total(partials[0], node)
    if node.kind in ("min", "max"):
        is_physical = dtype in ("datetime", "date", "duration")
        return (lambda partials: python_value(partials[0], dtype)) if is_physical else None
    if node.kind in ("first", "last"):
        return lambda partials: partials[0] and python_value(partials[0][1], dtype)
    return _FINALIZERS[node.kind]


def aggregate_events(node: Aggregate, reading: Reading, index: Index, events: Events) -> Any:
    """An aggregation without partial results, by the kernel that historical reads use too."""
    if node.where:
        counts = reading.measures[-1]
        events = [event for event in events if event[1][counts] is not None]
    columns: dict[Expr, pl.Series] = {}
    parts = [part for part in (node.value, node.by) if part is not None]
    # A filter's measure is the last one and belongs to no part.
    for part, place in zip(parts, reading.measures, strict=False):
        values = [row[place] for _, row in events]
        dtype = POLARS[index.measures[place].dtype]
        physical = pl.Int64() if dtype.is_temporal() else dtype
        # Tiles hold microseconds and days, which a temporal series takes only by a cast.
        columns[part] = pl.Series(values, dtype=physical).cast(dtype)
    # The filter has been applied above.
    unfiltered = node.model_copy(update={"where": ()})
    size = len(events)
    ranges = Ranges(np.zeros(1, np.int64), np.full(1, size, np.int64))
    keys = np.zeros(size, np.int64)
    return aggregate_series(unfiltered, columns.__getitem__, keys, ranges).to_list()[0]


def _check_total(total: Any, node: Aggregate) -> Any:
    # Digits of a total beyond 64 bits: see ``partials``.
    if isinstance(total, str):
        raise DataError(
            f"A sum over {node.join!r} does not fit in 64 bits.",
            "Sum F.cast(_.x, pa.float64()) instead.",
            node.join,
        )
    return total


def _mean(partials: Sequence[Any]) -> float | None:
    count, total = partials
    # A mean fits even where its total does not.
    if isinstance(total, str):
        total = int(total)
    return float(total / count) if count else None


def _variance(partials: Sequence[Any]) -> float | None:
    moments = partials[0]
    if moments is None or moments[0] < 2:
        return None
    try:
        return math.ldexp(moments[2] / (moments[0] - 1), 2 * _power(moments))
    except OverflowError:
        return math.inf


def _deviation(partials: Sequence[Any]) -> float | None:
    moments = partials[0]
    if moments is None or moments[0] < 2:
        return None
    try:
        return math.ldexp(math.sqrt(moments[2] / (moments[0] - 1)), _power(moments))
    except OverflowError:
        return math.inf


def _power(moments: Sequence[Any]) -> int:
    # The squares are divided by a power of 4 where they would overflow or vanish.
    return int(moments[4]) if len(moments) > 4 else 0


_FINALIZERS: Mapping[str, Finalizer] = {
    "mean": _mean,
    "var": _variance,
    "std": _deviation,
    "any": lambda partials: partials[1] > 0,
    "all": lambda partials: partials[0] == partials[1],
    "count_distinct": lambda partials: len(partials[0]),
}
