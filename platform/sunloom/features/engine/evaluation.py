"""A plan over source tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from sunloom.features.engine.counters import Counters
from sunloom.features.engine.query import QueryFrame
from sunloom.features.engine.source_rows import JoinedRows, SourceRows, filled, finished, in_order
from sunloom.features.expressions.to_polars import ToPolars
from sunloom.features.expressions.validations import violation_count
from sunloom.features.kernels.aggregates import aggregate_series
from sunloom.features.kernels.ranges import Bools, Ints, Ranges
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Aggregate, Bound, Expr, Lookup, Resolved, Window, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, JoinPlan, Plan
from sunloom.features.plan.polars_dtypes import POLARS


class FeatureEngine:
    """A plan over source tables.

    Args:
        plan: What to compute.
        sources: Namespace to rows, conformed to the plan's types; a class may have none.
    """

    def __init__(self, plan: Plan, sources: Mapping[str, pl.DataFrame]) -> None:
        self._plan = plan
        self._rows = {
            name: SourceRows(plan.class_plan(name), frame) for name, frame in sources.items()
        }
        self.counters = Counters()

    def compute(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The plan's outputs for each question, one row each, in order.

        Args:
            frame: The key under its feature name, ``NOW``, and given inputs.
        """
        return self._outputs(self._plan.namespace, frame, self._plan.outputs)

    def _outputs(self, namespace: str, frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
        item = self._plan.class_plan(namespace)
        order = in_order(item, names)
        questions = QueryFrame(frame, _aggregates(item, order))
        for name in order:
            if name in frame.columns:
                self._finish(questions, item.feature(name), pl.col(name))
        self._read_sources(item, questions, order)
        for name in order:
            feature = item.feature(name)
            if feature.expression is not None and name not in questions.frame.columns:
                self._compute_feature(item, questions, feature, feature.expression)
        return questions.frame.select(names)

    def _read_sources(self, item: ClassPlan, questions: QueryFrame, names: Iterable[str]) -> None:
        """The visible row of each question: the latest not after now; null where there is none."""
        held = questions.frame.columns
        wanted = [n for n in names if item.feature(n).expression is None and n not in held]
        if not wanted:
            return
        rows = self._rows.get(item.namespace)
        if rows is None:
            empty = [
                finished(item.feature(n), pl.lit(None, POLARS[item.feature(n).dtype]))
                for n in wanted
            ]
            questions.frame = questions.frame.with_columns(empty)
            return
        latest = self._latest(questions, rows.joined((item.key,), item.time), (item.key,))
        missing = latest < 0
        age = _ages(item, rows, latest, questions)
        done = [_or_default(item.feature(n), missing, age) for n in wanted]
        picked = _picked(rows.frame.select(wanted), latest).with_columns(done)
        questions.frame = questions.frame.hstack(picked)

    def _latest(self, questions: QueryFrame, joined: JoinedRows, keys: tuple[str, ...]) -> Ints:
        """Where each question's latest visible row stands in its source; -1 where there is none."""
        time = joined.time
        search = questions.search(joined, keys)
        ranges = search.ranges(Window(column=time, end=_NOW_BOUND if time else None))
        if not len(joined.timeline):
            return np.full(len(ranges.stop), -1, dtype=np.int64)
        places = joined.timeline.order[np.maximum(ranges.stop - 1, 0)]
        places[ranges.counts == 0] = -1
        return search.in_order(places)

    def _compute_feature(
        self, item: ClassPlan, questions: QueryFrame, feature: FeaturePlan, expression: Expr
    ) -> None:
        for node in walk(expression):
            if isinstance(node, Aggregate | Lookup) and node not in questions.answers:
                questions.add(self._parts(item, questions, node))
        if isinstance(expression, Resolved):
            questions.add({expression: self._resolved(item, questions, expression)})
        lowered = ToPolars(questions.answers).expression(expression)
        self._finish(questions, feature, lowered)

    def _finish(self, questions: QueryFrame, feature: FeaturePlan, value: pl.Expr) -> None:
        if feature.validations:
            broken = questions.frame.select(violation_count(feature, filled(feature, value))).item()
            if broken:
                self.counters.validations[feature.fqn] += broken
        questions.frame = questions.frame.with_columns(finished(feature, value))

    def _resolved(self, item: ClassPlan, questions: QueryFrame, node: Resolved) -> pl.Series:
        from sunloom.features.resolvers.arguments import ask

        if node.resolver not in questions.asked:
            answers = ask(node.resolver, questions.frame, item.key, questions.answers)
            questions.asked[node.resolver] = answers
            if answers.failures:
                self.counters.resolver_failures[node.resolver.fqn] += len(answers.failures)
        return questions.asked[node.resolver].column(node.output)

    def _parts(
        self, item: ClassPlan, questions: QueryFrame, node: Aggregate | Lookup
    ) -> dict[Expr, pl.Series]:
        join = item.join(node.join)
        if isinstance(node, Aggregate):
            return self._aggregate(questions, join, questions.alike(node))
        return {node: self._look_up(questions, join, node)}

    def _aggregate(
        self, questions: QueryFrame, join: JoinPlan, nodes: Sequence[Aggregate]
    ) -> dict[Expr, pl.Series]:
        """Aggregations that differ only in their windows: what they have in common is done once."""
        column = nodes[0].window.column
        joined = self._rows[join.target].joined(join.target_keys, column)
        search = questions.search(joined, join.own_keys)
        every = Ranges.concatenate([search.ranges(node.window) for node in nodes])
        found = aggregate_series(nodes[0], joined.sorted, joined.timeline.keys, every)
        size = questions.frame.height
        parts = [found.slice(place * size, size) for place in range(len(nodes))]
        return {node: search.answers(part) for node, part in zip(nodes, parts, strict=True)}

    def _look_up(self, questions: QueryFrame, join: JoinPlan, node: Lookup) -> pl.Series:
        target = self._plan.class_plan(join.target)
        if join.target_keys != (target.key,):
            return self._look_up_by_keys(questions, join, target, node)
        own = pl.col(join.own_keys[0]).alias(target.key)
        asked = questions.frame.select(own, NOW)
        known = asked[target.key].is_not_null()
        answers = self._outputs(target.namespace, asked, (node.feature,))[node.feature]
        return answers.set(~known, None)

    def _look_up_by_keys(
        self, questions: QueryFrame, join: JoinPlan, target: ClassPlan, node: Lookup
    ) -> pl.Series:
        """A has-one over other columns than the key: the latest visible row decides the key."""
        joined = self._rows[join.target].joined(join.target_keys, target.time)
        latest = self._latest(questions, joined, join.own_keys)
        keys = _picked(joined.rows.frame.select(target.key), latest)
        asked = questions.frame.select(NOW).hstack(keys)
        answers = self._outputs(target.namespace, asked, (node.feature,))[node.feature]
        return answers.set(asked[target.key].is_null(), None)


_NOW_BOUND = Bound(ago_us=0, inclusive=True)


def _picked(rows: pl.DataFrame, places: Ints) -> pl.DataFrame:
    """The row at each place; nulls where the place is -1."""
    if not rows.height:
        return rows.clear(len(places))
    # Two steps: gathering by an index with nulls is several times slower.
    picked = rows[np.maximum(places, 0)]
    known = pl.Series(places >= 0)
    return picked if known.all() else picked.select(pl.when(known).then(pl.all()))


def _aggregates(item: ClassPlan, names: Iterable[str]) -> list[Aggregate]:
    """Every aggregation in the features' expressions, once."""
    expressions = [item.feature(name).expression for name in names]
    nodes = [node for expr in expressions if expr is not None for node in walk(expr)]
    return list(dict.fromkeys(node for node in nodes if isinstance(node, Aggregate)))


def _ages(item: ClassPlan, rows: SourceRows, latest: Ints, questions: QueryFrame) -> Ints | None:
    """How long before the moment each question's row was observed; None where nobody asks."""
    if item.time is None or all(f.max_staleness_us is None for f in item.features):
        return None
    times = _picked(rows.frame.select(item.time), latest).to_series()
    age: Ints = questions.now - times.cast(pl.Int64).fill_null(0).to_numpy()
    return age


def _or_default(feature: FeaturePlan, missing: Bools, age: Ints | None) -> pl.Expr:
    """The feature's column, with its default where there is no row or it is too old."""
    value = pl.col(feature.name)
    limit = feature.max_staleness_us
    if limit is not None and age is not None:
        missing = missing | (age > limit)
    elif feature.default is None:
        return value
    default = pl.lit(None) if feature.default is None else ToPolars().expression(feature.default)
    return pl.when(pl.lit(pl.Series(missing))).then(default).otherwise(value).alias(feature.name)
