"""The feature engine: evaluation of a plan over source tables, class by class.

A class's query rows are keys and as-of times; a search gives the range of source rows that each of
them sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sunloom.features.engine.counters import Counters
from sunloom.features.engine.source_rows import (
    JoinedRows,
    SourceRows,
    evaluation_order,
)
from sunloom.features.expressions.to_polars import to_polars
from sunloom.features.expressions.validations import finish_value, violation_count
from sunloom.features.kernels.aggregates import aggregate_series
from sunloom.features.kernels.ranges import Bools, Ints, Ranges
from sunloom.features.plan.expressions import (
    Aggregate,
    Bound,
    Expr,
    Lookup,
    Resolved,
    Resolver,
    Window,
    walk,
)
from sunloom.features.plan.feature_sets import NOW, ClassPlan, FeaturePlan, JoinPlan, Plan
from sunloom.features.plan.polars_dtypes import POLARS

if TYPE_CHECKING:
    from sunloom.features.resolvers import ResolverResults

_NOW_BOUND = Bound(ago_us=0, inclusive=True)


class FeatureEngine:
    """Evaluates a plan over source tables.

    Args:
        plan: What to compute.
        sources: Namespace to rows, conformed to the plan's types; a class may have none.

    Attributes:
        counters: Values outside their limits and failed resolver calls, over all queries.
    """

    def __init__(self, plan: Plan, sources: Mapping[str, pl.DataFrame]) -> None:
        self._plan = plan
        self._rows = {
            name: SourceRows(plan.class_plan(name), frame) for name, frame in sources.items()
        }
        self.counters = Counters()

    def compute(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The plan's outputs for each query row, in order.

        Args:
            frame: The key under its feature name, ``NOW``, and features that are given.
        """
        return self._compute_class(self._plan.namespace, frame, self._plan.outputs)

    def _compute_class(
        self, namespace: str, frame: pl.DataFrame, names: Iterable[str]
    ) -> pl.DataFrame:
        item = self._plan.class_plan(namespace)
        order = evaluation_order(item, names)
        expressions = [item.feature(name).expression for name in order]
        nodes = [node for expr in expressions if expr is not None for node in walk(expr)]
        aggregates = dict.fromkeys(node for node in nodes if isinstance(node, Aggregate))
        query = QueryFrame(frame, list(aggregates))
        for name in order:
            # A value that the query gives is finished as any other: type, default, limits.
            if name in frame.columns:
                self._finish(query, item.feature(name), pl.col(name))
        self._read_sources(item, query, order)
        for name in order:
            feature = item.feature(name)
            if feature.expression is not None and name not in query.frame.columns:
                self._compute_feature(item, query, feature, feature.expression)
        return query.frame.select(names)

    def _read_sources(self, item: ClassPlan, query: QueryFrame, names: Iterable[str]) -> None:
        """Add the latest source row visible to each query row: not after now; null without one."""
        given = query.frame.columns
        read = [n for n in names if item.feature(n).expression is None and n not in given]
        if not read:
            return
        rows = self._rows.get(item.namespace)
        # The root's own source is optional: its features take their defaults.
        if rows is None:
            empty = [
                finish_value(item.feature(n), pl.lit(None, POLARS[item.feature(n).dtype]))
                for n in read
            ]
            query.frame = query.frame.with_columns(empty)
            return
        latest = self._latest_places(query, rows.joined_rows((item.key,), item.time), (item.key,))
        missing = latest < 0
        ages = _ages(item, rows, latest, query)
        values = [_value_or_default(item.feature(n), missing, ages) for n in read]
        query.frame = query.frame.hstack(
            _rows_at(rows.frame.select(read), latest).with_columns(values)
        )

    def _latest_places(self, query: QueryFrame, joined: JoinedRows, keys: tuple[str, ...]) -> Ints:
        """The place of each query row's latest visible row in its source; -1 without one."""
        time = joined.time
        search = query.search(joined, keys)
        ranges = search.ranges(Window(column=time, end=_NOW_BOUND if time else None))
        if not len(joined.timeline):
            return np.full(len(ranges.stop), -1, dtype=np.int64)
        # Clipped, so that one gather serves all rows; those without a match are overwritten below.
        places = joined.timeline.order[np.maximum(ranges.stop - 1, 0)]
        places[ranges.counts == 0] = -1
        return search.in_query_order(places)

    def _compute_feature(
        self, item: ClassPlan, query: QueryFrame, feature: FeaturePlan, expression: Expr
    ) -> None:
        # What other classes' rows give becomes a column first; the rest is one Polars expression.
        for node in walk(expression):
            if isinstance(node, Aggregate) and node not in query.columns:
                query.add(self._aggregate(query, item.join(node.join), query.same_shape(node)))
            elif isinstance(node, Lookup) and node not in query.columns:
                query.add({node: self._look_up(query, item.join(node.join), node)})
        if isinstance(expression, Resolved):
            query.add({expression: self._resolve(item, query, expression)})
        self._finish(query, feature, to_polars(expression, query.columns))

    def _finish(self, query: QueryFrame, feature: FeaturePlan, value: pl.Expr) -> None:
        if feature.validations:
            violations = violation_count(feature, value)
            if count := query.frame.select(violations).item():
                self.counters.validations[feature.fqn] += count
        query.frame = query.frame.with_columns(finish_value(feature, value))

    def _resolve(self, item: ClassPlan, query: QueryFrame, node: Resolved) -> pl.Series:
        # Only plans with resolvers load user code.
        from sunloom.features.resolvers import resolve_frame

        if node.resolver not in query.resolver_results:
            results = resolve_frame(node.resolver, query.frame, item.key, query.columns)
            query.resolver_results[node.resolver] = results
            if results.failures:
                self.counters.resolver_failures[node.resolver.fqn] += len(results.failures)
        return query.resolver_results[node.resolver].column(node.output)

    def _aggregate(
        self, query: QueryFrame, join: JoinPlan, nodes: Sequence[Aggregate]
    ) -> dict[Expr, pl.Series]:
        """Aggregations that differ only in their windows: what they have in common is done once."""
        column = nodes[0].window.column
        joined = self._rows[join.target].joined_rows(join.target_keys, column)
        search = query.search(joined, join.own_keys)
        ranges = Ranges.concatenate([search.ranges(node.window) for node in nodes])
        values = aggregate_series(nodes[0], joined.sorted_values, joined.timeline.keys, ranges)
        size = query.frame.height
        return {
            node: search.column_in_query_order(values.slice(number * size, size))
            for number, node in enumerate(nodes)
        }

    def _look_up(self, query: QueryFrame, join: JoinPlan, node: Lookup) -> pl.Series:
        target = self._plan.class_plan(join.target)
        if join.target_keys == (target.key,):
            keys = query.frame.select(pl.col(join.own_keys[0]).alias(target.key))
        else:
            # A has-one over other columns than the key: the latest visible row decides the key.
            joined = self._rows[join.target].joined_rows(join.target_keys, target.time)
            latest = self._latest_places(query, joined, join.own_keys)
            keys = _rows_at(joined.rows.frame.select(target.key), latest)
        frame = query.frame.select(NOW).hstack(keys)
        values = self._compute_class(target.namespace, frame, (node.feature,))[node.feature]
        # A null key looks nothing up, though the target's feature may have a default.
        return values.set(keys[target.key].is_null(), None)


def _rows_at(rows: pl.DataFrame, places: Ints) -> pl.DataFrame:
    """The row at each place; nulls where the place is -1."""
    if not rows.height:
        return rows.clear(len(places))
    # Two steps: gathering by an index with nulls is several times slower.
    gathered = rows[np.maximum(places, 0)]
    known = pl.Series(places >= 0)
    return gathered if known.all() else gathered.select(pl.when(known).then(pl.all()))


def _ages(item: ClassPlan, rows: SourceRows, latest: Ints, query: QueryFrame) -> Ints | None:
    """Microseconds since each source row was observed; None if no feature grows stale."""
    if item.time is None or all(f.max_staleness_us is None for f in item.features):
        return None
    times = _rows_at(rows.frame.select(item.time), latest).to_series()
    # A row that is missing takes the default whatever its age is.
    ages: Ints = query.now_us - times.cast(pl.Int64).fill_null(0).to_numpy()
    return ages


def _value_or_default(feature: FeaturePlan, missing: Bools, ages: Ints | None) -> pl.Expr:
    """The feature's column, with its default where there is no row or it is too old."""
    value = pl.col(feature.name)
    limit = feature.max_staleness_us
    if limit is not None and ages is not None:
        missing = missing | (ages > limit)
    elif feature.default is None:
        return value
    default = pl.lit(None) if feature.default is None else to_polars(feature.default)
    return pl.when(pl.lit(pl.Series(missing))).then(default).otherwise(value).alias(feature.name)


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
        return values if self._order is None else values[self._inverse_order]

    @cached_property
    def _inverse_order(self) -> pl.Series:
        return pl.Series(self.in_query_order(np.arange(len(self._codes), dtype=np.int64)))

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
        aggregates: Every aggregation that will be computed, once.
    """

    def __init__(self, frame: pl.DataFrame, aggregates: Sequence[Aggregate]) -> None:
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
            # Not with_columns, which is a query plan: ten times the time of few rows.
            self.frame = self.frame.hstack([series.alias(self.columns[node])])

    def same_shape(self, node: Aggregate) -> list[Aggregate]:
        """The aggregations that differ from this one only in how far their windows reach."""
        return self._by_shape[_without_bounds(node)]


def _without_bounds(node: Aggregate) -> Aggregate:
    # Whether a window has a start at all decides how some are computed.
    start = None if node.window.start is None else _NOW_BOUND
    return node.model_copy(update={"window": Window(column=node.window.column, start=start)})
