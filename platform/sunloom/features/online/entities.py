"""One key's tiles at one moment: aggregations over any window of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.errors import DataError, UsageError
from sunloom.features.aggregation import aggregate_series
from sunloom.features.kernels import Ranges
from sunloom.features.online.compiled import stored_value
from sunloom.features.plan import Aggregate, Expr
from sunloom.features.streaming.heads import BEFORE_ALL, Head
from sunloom.features.streaming.layout import Index, Reading, Span
from sunloom.features.streaming.slots import SlotKind, slot_kind
from sunloom.features.types import EPOCH, POLARS

Events = list[tuple[int, Sequence[Any]]]
Finish = Callable[[Sequence[Any]], Any]
NOW = Span(None, -1)
"""What is visible at the moment: event times up to it."""


class IndexReader:
    """Makes answers of an index's heads and events.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.kinds: list[SlotKind] = [slot_kind(slot) for slot in index.slots]
        self.row_slot = next((p for p, s in enumerate(index.slots) if s.kind == "row"), None)

    def row(self, entity: Entity) -> dict[str, Any] | None:
        """The latest visible row's features; None where there is no row."""
        assert self.row_slot is not None
        span = NOW if self.index.time else Span(None, None)
        state = entity.slot(span, self.row_slot)
        if state is None:
            return None
        measures = self.index.measures
        return {
            name: stored_value(value, measures[place].dtype)
            for name, place, value in zip(
                self.index.columns, self.index.row_measures, state[1], strict=True
            )
        }


class Entity:
    """One key in one index at one moment.

    Args:
        reader: The index's reader.
        head: Its tiles; empty where the key is not known.
        now_us: The moment.
        is_known: Whether there is anything of the key.
    """

    def __init__(self, reader: IndexReader, head: Head, now_us: int, *, is_known: bool) -> None:
        self.reader = reader
        self.head = head
        self.is_known = is_known
        self._now_us = now_us
        self._tiles: dict[int, Events] = {}
        self._windows: dict[Span, _Cut] = {}
        self._slots: dict[tuple[Span, int], Any] = {}

    def wants(self, spans: Sequence[Span], *, all_events: bool = False) -> list[int]:
        """Tiles whose events the windows need, because an edge goes through them."""
        wanted: dict[int, None] = {}
        for span in spans:
            cut = self._cut(span)
            for place in range(cut.low, cut.high):
                if all_events or place in cut.partial:
                    wanted[self.head.tiles[place]] = None
        return list(wanted)

    def give(self, tile: int, columns: Sequence[Sequence[Any]]) -> None:
        """The events of a tile that was wanted, in order of arrival."""
        times, *measures = columns
        rows = zip(*measures, strict=True) if measures else ((),) * len(times)
        self._tiles[tile] = sorted(zip(times, rows, strict=True), key=_time)

    def slot(self, span: Span, place: int) -> Any:
        """A slot's partial result over a window."""
        if (span, place) not in self._slots:
            self._slots[span, place] = self._folded(span, place)
        return self._slots[span, place]

    def events(self, span: Span) -> Events:
        """Every event in a window, by time, then arrival."""
        cut = self._cut(span)
        return [
            event
            for place in range(cut.low, cut.high)
            for event in self._inside(self.head.tiles[place], cut)
        ]

    def _folded(self, span: Span, place: int) -> Any:
        cut = self._cut(span)
        slot, kind = self.reader.index.slots[place], self.reader.kinds[place]
        column = self.head.states[place]
        parts = column[cut.low : cut.high]
        for partial in cut.partial:
            events = self._inside(self.head.tiles[partial], cut)
            timed: list[tuple[int, Any]]
            if slot.kind == "row":
                timed = [
                    (t, [values[m] for m in self.reader.index.row_measures]) for t, values in events
                ]
            elif slot.measure < 0:
                timed = list(events)
            else:
                measured = slot.measure
                timed = [
                    (t, values[measured]) for t, values in events if values[measured] is not None
                ]
            parts[partial - cut.low] = kind.events(timed)
        if cut.with_life and self.head.life is not None:
            parts.insert(0, self.head.life[1 + place])
        return kind.fold(parts)

    def _inside(self, tile: int, cut: _Cut) -> Events:
        events = self._tiles[tile]
        return [e for e in events if cut.start <= e[0] < cut.end]

    def _cut(self, span: Span) -> _Cut:
        if span not in self._windows:
            self._windows[span] = self._cut_at(span)
        return self._windows[span]

    def _cut_at(self, span: Span) -> _Cut:
        head, width = self.head, self.reader.index.tile_us
        start = None if span.start_ago_us is None else self._now_us - span.start_ago_us
        end = None if span.end_ago_us is None else self._now_us - span.end_ago_us
        self._check(start, end)
        low, high = head.between(start, end, width)
        first, last = -math.inf if start is None else start, math.inf if end is None else end
        partial = [
            place
            for place in dict.fromkeys((low, high - 1))
            if low <= place < high and (head.starts[place] < first or head.ends[place] >= last)
        ]
        return _Cut(low, high, partial, first, last, with_life=start is None)

    def _check(self, start: int | None, end: int | None) -> None:
        floor = self.head.floor_us
        if floor == BEFORE_ALL or self.head.life is None:
            return
        edge = end if start is None else start
        if edge is not None and edge < floor:
            raise UsageError(
                f"The moment asked about is too far back: events before "
                f"{stored_value(floor, 'datetime').isoformat()} are kept as totals only.",
                "Ask about a later moment, use `features historical`, or allow more lateness.",
                "now",
            )


class _Cut:
    """Tiles of a window: places, those that an edge goes through, and the edges."""

    __slots__ = ("end", "high", "low", "partial", "start", "with_life")

    def __init__(
        self,
        low: int,
        high: int,
        partial: list[int],
        start: float,
        end: float,
        *,
        with_life: bool,
    ) -> None:
        self.low = low
        self.high = high
        self.partial = partial
        self.start = start
        self.end = end
        self.with_life = with_life


def finishing(node: Aggregate, slots: Sequence[str]) -> Finish:
    """Turns a window's partial results into the aggregation's value."""
    assert slots
    dtype = node.value.dtype if node.value is not None else "int64"
    if node.kind in ("min", "max", "first", "last"):
        is_pair = node.kind in ("first", "last")

        def one(states: Sequence[Any]) -> Any:
            state = states[0]
            value = state[1] if is_pair and state is not None else state
            return _typed(stored_value(value, dtype), node)

        return one
    finish = _FINISHES[node.kind]
    return lambda states: _typed(finish(states), node)


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


def _typed(value: Any, node: Aggregate) -> Any:
    if node.kind == "sum" and isinstance(value, str):
        raise DataError(
            f"A sum over {node.join!r} does not fit in 64 bits.",
            "Sum F.cast(_.x, pa.float64()) instead.",
            node.join,
        )
    if node.dtype == "float64" and value is not None and not isinstance(value, float):
        return float(value)
    return value


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
    "count": lambda states: states[0],
    "sum": lambda states: states[0],
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
