"""The query of one class: keys and as-of times, and the ranges of source rows that each sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sunloom.features.engine.source_rows import JoinedRows
from sunloom.features.kernels.ranges import Ints, Ranges
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Aggregate, Bound, Expr, Resolver, Window

if TYPE_CHECKING:
    from sunloom.features.resolvers.results import ResolverResults

_ANY_BOUND = Bound(ago_us=0, inclusive=True)


class AsOfSearch:
    """Query rows of one join, in the order in which they are searched.

    Args:
        joined: The rows that are searched.
        codes: Each query row's key code.
        now: Each query row's as-of time, microseconds.
    """

    def __init__(self, joined: JoinedRows, codes: Ints, now: Ints) -> None:
        self._timeline = joined.timeline
        # Neighbouring query rows then look at neighbouring source rows: several times faster.
        self._order = joined.timeline.search_order(codes, now)
        self._codes = codes if self._order is None else codes[self._order]
        self._now = now if self._order is None else now[self._order]
        self._bounds: dict[tuple[Bound, bool], Ints] = {}

    def ranges(self, window: Window) -> Ranges:
        """The joined rows in each query row's window, in the order of the search."""
        timeline, codes = self._timeline, self._codes
        stop = timeline.end_of(codes) if window.end is None else self._search(window.end, True)
        if window.start is None:
            start = timeline.first_of(codes)
        else:
            # Rows before the window: not after its start, or, if the start is in it, before.
            start = self._search(window.start, False)
        unknown = codes < 0
        if unknown.any():
            start, stop = np.where(unknown, 0, start), np.where(unknown, 0, stop)
        # A window that starts behind its end is empty, never of negative length.
        return Ranges(np.minimum(start, stop), stop)

    def in_query_order(self, places: Ints) -> Ints:
        """Places that were searched, in the order of the query rows."""
        if self._order is None:
            return places
        ordered = np.empty_like(places)
        ordered[self._order] = places
        return ordered

    def column_in_query_order(self, values: pl.Series) -> pl.Series:
        """The same for a column of values."""
        return values if self._order is None else values.gather(self._inverse_order)

    @cached_property
    def _inverse_order(self) -> Ints:
        return self.in_query_order(np.arange(len(self._codes), dtype=np.int64))

    def _search(self, bound: Bound, is_end: bool) -> Ints:
        inclusive = bound.inclusive is is_end
        key = (bound, inclusive)
        # Windows often share a bound, most of all their end: now.
        if key not in self._bounds:
            times = self._now - bound.ago_us
            self._bounds[key] = self._timeline.search(self._codes, times, inclusive=inclusive)
        return self._bounds[key]


class QueryFrame:
    """Query rows of one class, with columns of parts of expressions as they are computed.

    Args:
        frame: The key under its feature name, ``NOW``, and features that are given.
        aggregates: Every aggregation that will be computed.
    """

    def __init__(self, frame: pl.DataFrame, aggregates: Sequence[Aggregate] = ()) -> None:
        self.frame = frame
        self.columns: dict[Expr, str] = {}
        self.resolver_results: dict[Resolver, ResolverResults] = {}
        self._by_shape: dict[Aggregate, list[Aggregate]] = {}
        for node in aggregates:
            self._by_shape.setdefault(_without_bounds(node), []).append(node)
        self._searches: dict[tuple[JoinedRows, tuple[str, ...]], AsOfSearch] = {}

    @cached_property
    def now_us(self) -> Ints:
        """The as-of times in microseconds."""
        return self.frame[NOW].cast(pl.Int64).to_numpy()

    def search(self, joined: JoinedRows, keys: tuple[str, ...]) -> AsOfSearch:
        """The query rows in that join."""
        if (joined, keys) not in self._searches:
            codes = joined.codec.codes([self.frame[name] for name in keys])
            self._searches[joined, keys] = AsOfSearch(joined, codes, self.now_us)
        return self._searches[joined, keys]

    def add(self, parts: Mapping[Expr, pl.Series]) -> None:
        """Keep the values of parts of expressions as columns."""
        for node, series in parts.items():
            self.columns[node] = f"__part{len(self.columns)}__"
            self.frame = self.frame.with_columns(series.alias(self.columns[node]))

    def same_shape(self, node: Aggregate) -> list[Aggregate]:
        """The aggregations that differ from this one only in how far their windows reach."""
        return self._by_shape.get(_without_bounds(node), [node])


def _without_bounds(node: Aggregate) -> Aggregate:
    # Whether a window has a start at all decides how some are computed.
    start = None if node.window.start is None else _ANY_BOUND
    return node.model_copy(update={"window": Window(column=node.window.column, start=start)})
