"""The feature engine: evaluation of a plan over source tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from sunloom.features.engine.counters import Counters
from sunloom.features.engine.query import QueryFrame
from sunloom.features.engine.source_rows import (
    JoinedRows,
    SourceRows,
    evaluation_order,
    fill_default,
    finish_value,
)
from sunloom.features.expressions.to_polars import ToPolars
from sunloom.features.expressions.validations import violation_count
from sunloom.features.kernels.aggregates import aggregate_series
from sunloom.features.kernels.ranges import Bools, Ints, Ranges
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Aggregate, Bound, Expr, Lookup, Resolved, Window, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, JoinPlan, Plan
from sunloom.features.plan.polars_dtypes import POLARS

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
        query = QueryFrame(frame, _aggregates(item, order))
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
        self._finish(query, feature, ToPolars(query.columns).expression(expression))

    def _finish(self, query: QueryFrame, feature: FeaturePlan, value: pl.Expr) -> None:
        if feature.validations:
            violations = violation_count(feature, fill_default(feature, value))
            if count := query.frame.select(violations).item():
                self.counters.validations[feature.fqn] += count
        query.frame = query.frame.with_columns(finish_value(feature, value))

    def _resolve(self, item: ClassPlan, query: QueryFrame, node: Resolved) -> pl.Series:
        # Only plans with resolvers load user code.
        from sunloom.features.resolvers.resolve import resolve_frame

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


def _aggregates(item: ClassPlan, names: Iterable[str]) -> list[Aggregate]:
    """Every aggregation in the features' expressions, once."""
    expressions = [item.feature(name).expression for name in names]
    nodes = [node for expr in expressions if expr is not None for node in walk(expr)]
    return list(dict.fromkeys(node for node in nodes if isinstance(node, Aggregate)))


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
    default = pl.lit(None) if feature.default is None else ToPolars().expression(feature.default)
    return pl.when(pl.lit(pl.Series(missing))).then(default).otherwise(value).alias(feature.name)
