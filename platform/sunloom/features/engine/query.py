"""Questions to rows: which key, as of which moment, and the ranges of rows that answer."""

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


class AsOfSearch:
    """Questions of one join, in the order in which they are searched.

    Neighbouring questions then look at neighbouring rows: several times faster.

    Args:
        joined: The rows that are searched.
        codes: Each question's key code.
        now: Each question's moment, microseconds.
    """

    def __init__(self, joined: JoinedRows, codes: Ints, now: Ints) -> None:
        self._timeline = joined.timeline
        self._order = joined.timeline.search_order(codes, now)
        self._codes = codes if self._order is None else codes[self._order]
        self._now = now if self._order is None else now[self._order]
        self._ends: dict[tuple[Bound, bool], Ints] = {}

    def ranges(self, window: Window) -> Ranges:
        """The joined rows in each question's window, in the order of the search."""
        timeline, codes = self._timeline, self._codes
        stop = timeline.end_of(codes) if window.end is None else self._until(window.end, True)
        if window.start is None:
            start = timeline.first_of(codes)
        else:
            # Rows before the window: not after its start, or, if the start is in it, before.
            start = self._until(window.start, False)
        unknown = codes < 0
        if unknown.any():
            start, stop = np.where(unknown, 0, start), np.where(unknown, 0, stop)
        return Ranges(np.minimum(start, stop), stop)

    def in_order(self, found: Ints) -> Ints:
        """What was found, in the order of the questions."""
        if self._order is None:
            return found
        placed = np.empty_like(found)
        placed[self._order] = found
        return placed

    def answers(self, found: pl.Series) -> pl.Series:
        """The same for a column."""
        return found if self._order is None else found.gather(self._places)

    @cached_property
    def _places(self) -> Ints:
        return self.in_order(np.arange(len(self._codes), dtype=np.int64))

    def _until(self, bound: Bound, is_end: bool) -> Ints:
        inclusive = bound.inclusive is is_end
        wanted = (bound, inclusive)
        if wanted not in self._ends:
            moments = self._now - bound.ago_us
            self._ends[wanted] = self._timeline.search(self._codes, moments, inclusive=inclusive)
        return self._ends[wanted]


class QueryFrame:
    """What is asked of one class: a key and a moment a row, and answers as they are computed.

    Args:
        frame: The key under its feature name, ``NOW``, and inputs that are given.
        aggregates: Every aggregation that will be asked for.
    """

    def __init__(self, frame: pl.DataFrame, aggregates: Sequence[Aggregate] = ()) -> None:
        self.frame = frame
        self.answers: dict[Expr, str] = {}
        self.asked: dict[Resolver, ResolverResults] = {}
        self._alike: dict[Aggregate, list[Aggregate]] = {}
        for node in aggregates:
            self._alike.setdefault(_without_bounds(node), []).append(node)
        self._searches: dict[tuple[int, tuple[str, ...]], AsOfSearch] = {}

    @cached_property
    def now(self) -> Ints:
        """The moments in microseconds."""
        return self.frame[NOW].cast(pl.Int64).to_numpy()

    def search(self, joined: JoinedRows, keys: tuple[str, ...]) -> AsOfSearch:
        """The questions in that join."""
        wanted = (id(joined), keys)
        if wanted not in self._searches:
            codes = joined.codec.codes([self.frame[name] for name in keys])
            self._searches[wanted] = AsOfSearch(joined, codes, self.now)
        return self._searches[wanted]

    def add(self, parts: Mapping[Expr, pl.Series]) -> None:
        """Keep the values of parts of expressions."""
        for node, series in parts.items():
            self.answers[node] = f"__part{len(self.answers)}__"
            self.frame = self.frame.with_columns(series.alias(self.answers[node]))

    def alike(self, node: Aggregate) -> list[Aggregate]:
        """The aggregations that differ from this one only in how far their windows reach."""
        return self._alike.get(_without_bounds(node), [node])


def _without_bounds(node: Aggregate) -> Aggregate:
    # Whether a window has a start at all decides how some are computed.
    start = None if node.window.start is None else _ANY_BOUND
    return node.model_copy(update={"window": Window(column=node.window.column, start=start)})


_ANY_BOUND = Bound(ago_us=0, inclusive=True)
