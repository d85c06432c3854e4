"""One key's tiles at one moment: aggregations over any window of them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.errors import DataError, UsageError
from sunloom.feature_store.online.row_functions import stored_value
from sunloom.feature_store.online.tiles.heads import Head
from sunloom.feature_store.online.tiles.index import Index, Reading, visible
from sunloom.feature_store.online.tiles.partials import SlotKind, slot_kind
from sunloom.features.kernels.aggregates import aggregate_series
from sunloom.features.kernels.ranges import Ranges
from sunloom.features.plan.expressions import Aggregate, Expr
from sunloom.features.plan.polars_dtypes import EPOCH, POLARS

Events = list[tuple[int, Sequence[Any]]]
Value = Callable[["Entity"], Any]
Finish = Callable[[Sequence[Any]], Any]
_FIRST, _LAST = -(1 << 63), 1 << 63


class IndexReader:
    """Makes entities of an index's heads.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.kinds: list[SlotKind] = [slot_kind(slot) for slot in index.slots]
        self.folds = [kind.fold for kind in self.kinds]
        self.spans = [(span.start_ago_us, span.end_ago_us) for span in index.spans]
        self.nothing = Entity(self, None, 0)
        self._row_slot = next((p for p, s in enumerate(index.slots) if s.kind == "row"), -1)
        everything = visible(index.time)
        self._row_span = index.spans.index(everything) if everything in index.spans else -1

    def row(self, entity: Entity) -> dict[str, Any] | None:
        """The latest visible row's features; None where there is no row."""
        state = entity.slot(self._row_span, self._row_slot)
        if state is None:
            return None
        index = self.index
        return {
            name: stored_value(value, index.measures[place].dtype)
            for name, place, value in zip(index.columns, index.row_measures, state[1], strict=True)
        }


class Entity:
    """One key in one index at one moment.

    Args:
        reader: The index's reader.
        raw: Its head as stored; None where the key is not known.
        now_us: The moment.
    """

    __slots__ = ("_events", "_reader", "cuts", "head", "is_known")

    def __init__(self, reader: IndexReader, raw: bytes | None, now_us: int) -> None:
        self._reader = reader
        self.is_known = raw is not None
        self.head = Head(raw, len(reader.index.slots))
        self._events: dict[int, Events] = {}
        self.cuts = [self._cut(start, end, now_us) for start, end in reader.spans]

    def wants(self) -> dict[int, None]:
        """Tiles whose events are needed: an edge goes through them, or the events are read."""
        tiles = self.head.tiles
        if self._reader.index.reads_events:
            return dict.fromkeys(tile for cut in self.cuts for tile in tiles[cut[0] : cut[1]])
        return dict.fromkeys(tiles[place] for cut in self.cuts for place in cut[2])

    def give(self, tile: int, columns: Sequence[Sequence[Any]]) -> None:
        """The events of a tile that was wanted, in order of arrival."""
        times, *measures = columns
        rows = zip(*measures, strict=True) if measures else ((),) * len(times)
        self._events[tile] = sorted(zip(times, rows, strict=True), key=_time)

    def slot(self, span: int, place: int) -> Any:
        """A slot's partial result over a window."""
        cut = self.cuts[span]
        parts = self.head.states[place][cut[0] : cut[1]]
        for partial in cut[2]:
            parts[partial - cut[0]] = self._of_events(partial, cut, place)
        if cut[5] and self.head.life is not None:
            parts.insert(0, self.head.life[1 + place])
        return self._reader.folds[place](parts)

    def events(self, span: int) -> Events:
        """Every event in a window, by time, then arrival."""
        cut = self.cuts[span]
        return [event for place in range(cut[0], cut[1]) for event in self._inside(place, cut)]

    def _of_events(self, tile: int, cut: _Cut, place: int) -> Any:
        index = self._reader.index
        slot, events = index.slots[place], self._inside(tile, cut)
        timed: list[tuple[int, Any]]
        if slot.kind == "row":
            timed = [(at, [values[m] for m in index.row_measures]) for at, values in events]
        elif slot.measure < 0:
            timed = list(events)
        else:
            measure = slot.measure
            timed = [(at, row[measure]) for at, row in events if row[measure] is not None]
        return self._reader.kinds[place].events(timed)

    def _inside(self, place: int, cut: _Cut) -> Events:
        start, end = cut[3], cut[4]
        return [event for event in self._events[self.head.tiles[place]] if start <= event[0] < end]

    def _cut(self, start_ago: int | None, end_ago: int | None, now_us: int) -> _Cut:
        head = self.head
        start = _FIRST if start_ago is None else now_us - start_ago
        end = _LAST if end_ago is None else now_us - end_ago
        if head.life is not None:
            self._check(end if start_ago is None else start)
        tiles, width = head.tiles, self._reader.index.tile_us
        low = 0 if start_ago is None else bisect_left(tiles, start // width)
        high = len(tiles) if end_ago is None else bisect_right(tiles, (end - 1) // width)
        if low >= high:
            return low, low, (), start, end, start_ago is None
        partial: tuple[int, ...] = ()
        if head.starts[low] < start or head.ends[low] >= end:
            partial = (low,)
        if low < high - 1 and head.ends[high - 1] >= end:
            partial = (*partial, high - 1)
        return low, high, partial, start, end, start_ago is None

    def _check(self, edge: int) -> None:
        floor = self.head.floor_us
        if edge < floor:
            raise UsageError(
                f"The moment asked about is too far back: events before "
                f"{stored_value(floor, 'datetime').isoformat()} are kept as totals only.",
                "Ask about a later moment, use `features historical`, or allow more lateness.",
                "now",
            )


_Cut = tuple[int, int, tuple[int, ...], int, int, bool]
"""A window's tiles: from, to, those that an edge goes through; its edges; whether all before."""


def aggregation(node: Aggregate, reading: Reading, index: Index) -> Value:
    """The aggregation of an entity's events, made once a plan."""
    span, slots = reading.span, reading.slots
    if not slots:
        return lambda entity: from_events(node, reading, index, entity.events(span))
    finish = finishing(node)
    if finish is None:
        only = slots[0]
        return lambda entity: entity.slot(span, only)
    if len(slots) == 1:
        only = slots[0]
        return lambda entity: finish((entity.slot(span, only),))
    return lambda entity: finish([entity.slot(span, place) for place in slots])


def finishing(node: Aggregate) -> Finish | None:
    """Turns a window's partial results into the aggregation's value; None where they are it."""
    if node.kind in ("min", "max", "first", "last"):
        return _of_one(node)
    if node.kind == "count" or (node.kind == "sum" and node.dtype == "float64"):
        return None
    if node.kind == "sum":
        return lambda states: _fitting(states[0], node)
    return _FINISHES[node.kind]


def _of_one(node: Aggregate) -> Finish | None:
    dtype = node.value.dtype if node.value is not None else "int64"
    is_pair = node.kind in ("first", "last")
    if not is_pair and dtype not in ("datetime", "duration"):
        return None

    def one(states: Sequence[Any]) -> Any:
        state = states[0]
        return stored_value(state[1] if is_pair and state is not None else state, dtype)

    return one


def from_events(node: Aggregate, reading: Reading, index: Index, events: Events) -> Any:
    """An aggregation that has no partial results, by the engine's own kernel."""
    if node.where:
        counts = reading.measures[-1]
        events = [event for event in events if event[1][counts] is not None]
    given: dict[Expr, pl.Series] = {}
    parts = [part for part in (node.value, node.by) if part is not None]
    for part, place in zip(parts, reading.measures, strict=False):
        values = [row[place] for _, row in events]
        dtype = POLARS[index.measures[place].dtype]
        physical = pl.Int64() if dtype.is_temporal() else dtype
        given[part] = pl.Series(values, dtype=physical).cast(dtype)
    bare = node.model_copy(update={"where": ()})
    size = len(events)
    ranges = Ranges(np.zeros(1, np.int64), np.full(1, size, np.int64))
    keys = np.zeros(size, np.int64)
    return aggregate_series(bare, given.__getitem__, keys, ranges).to_list()[0]


def _fitting(total: Any, node: Aggregate) -> Any:
    if isinstance(total, str):
        raise DataError(
            f"A sum over {node.join!r} does not fit in 64 bits.",
            "Sum F.cast(_.x, pa.float64()) instead.",
            node.join,
        )
    return total


def _mean(states: Sequence[Any]) -> float | None:
    count, total = states
    if isinstance(total, str):
        total = int(total)
    return total / count if count else None


def _variance(states: Sequence[Any]) -> float | None:
    moments = states[0]
    return None if moments is None or moments[0] < 2 else moments[2] / (moments[0] - 1)


def _deviation(states: Sequence[Any]) -> float | None:
    variance = _variance(states)
    return None if variance is None else math.sqrt(variance)


_FINISHES: Mapping[str, Finish] = {
    "mean": _mean,
    "var": _variance,
    "std": _deviation,
    "any": lambda states: states[1] > 0,
    "all": lambda states: states[0] == states[1],
    "count_distinct": lambda states: len(states[0]),
}


def _time(event: tuple[int, Any]) -> int:
    return event[0]


def microseconds(moment: Any) -> int:
    """Whole microseconds since the epoch."""
    gap = moment - EPOCH
    return int(gap.days * 86_400 + gap.seconds) * 1_000_000 + int(gap.microseconds)
