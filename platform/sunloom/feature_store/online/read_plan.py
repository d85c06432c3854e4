"""Plan of an online read: which features of a class are stored, looked up or computed.

The expressions of computed features are compiled to plain functions of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.online.tile_windows import Aggregation, build_aggregation
from sunloom.features.engine.source_rows import evaluation_order
from sunloom.features.expressions.functions.table import evaluate_call
from sunloom.features.expressions.literals import constant_value
from sunloom.features.expressions.validations import is_within
from sunloom.features.plan.expressions import (
    Aggregate,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Resolved,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, JoinPlan

Parts = Sequence[Any]
"""A row's values of aggregates and lookups."""
RowFunction = Callable[[dict[str, Any], datetime, Parts], Any]
BatchFunction = Callable[[Sequence[dict[str, Any]], datetime, Sequence[Parts]], list[Any]]


@dataclass(frozen=True)
class AggregatePart:
    """An aggregation over the tiles of a has-many join.

    Attributes:
        index: Number of the index with the joined events.
        own_keys: The row's features that the join compares.
        aggregate: The value from an entity's tiles.
    """

    index: int
    own_keys: tuple[str, ...]
    aggregate: Aggregation


@dataclass(frozen=True)
class LookupPart:
    """A feature of another class through a has-one join.

    Attributes:
        join: The join.
        target_key: Key of the other class.
        feature: The feature.
        row_index: Number of the index that finds the latest row by the joined columns; None where
            the join compares the other class's key itself.
        read_plan: How the other class's feature is read.
    """

    join: JoinPlan
    target_key: str
    feature: str
    row_index: int | None
    read_plan: ReadPlan


@dataclass(frozen=True)
class FeatureStep:
    """One feature that is computed; without a function its value is that of its only part.

    Attributes:
        name: The feature.
        parts: Aggregates and lookups that it is made of.
        row_function: Computes it row by row.
        batch_function: Computes it for all rows at once: a resolver's output.
        finalize: Applies type, default and strict limits.
    """

    name: str
    parts: tuple[AggregatePart | LookupPart, ...]
    row_function: RowFunction | None
    batch_function: BatchFunction | None
    finalize: Callable[[Any], Any]


@dataclass(frozen=True)
class ReadPlan:
    """How the features of one class are read.

    Attributes:
        item: The class.
        row_index: The index that holds its latest rows; None where it is not streamed.
        defaults: Features read from such a row, each with its default.
        max_ages: How old the row may be for a feature; beyond it the default is given.
        stored: Features read from the stored record.
        steps: Computed features, each after those that it needs.
    """

    item: ClassPlan
    row_index: int | None
    defaults: Mapping[str, Any]
    max_ages: Mapping[str, timedelta]
    stored: tuple[str, ...]
    steps: tuple[FeatureStep, ...]


def build_read_plan(
    layout: TileLayout, namespace: str, names: Sequence[str], recorded: Collection[str] = ()
) -> ReadPlan:
    """The plan of reading one class's features.

    Args:
        layout: What the stream keeps.
        namespace: The class.
        names: The features to read.
        recorded: Features that a stored record of the class holds.
    """
    item = layout.plan.class_plan(namespace)
    computable = _ComputableFeatures(layout, item, recorded)
    order = evaluation_order(item, names)
    features = [item.feature(name) for name in order]
    computed = [f for f in features if f.expression is not None and computable.has_feature(f)]
    is_streamed = namespace in layout.streamed
    sources = [f for f in features if f.expression is None and is_streamed]
    unstored = {f.name for f in (*computed, *sources)}
    return ReadPlan(
        item=item,
        row_index=layout.rows.get((namespace, (item.key,))) if sources else None,
        # A default is finalized too: strict limits may turn it into null.
        defaults={f.name: feature_finalizer(f)(None) for f in sources},
        max_ages={
            f.name: timedelta(microseconds=f.max_staleness_us)
            for f in sources
            if f.max_staleness_us is not None
        },
        stored=tuple(name for name in order if name not in unstored),
        steps=tuple(_build_step(layout, item, feature) for feature in computed),
    )


class _ComputableFeatures:
    """Which features of a class can be computed at read time; the others are read as stored."""

    def __init__(self, layout: TileLayout, item: ClassPlan, recorded: Collection[str]) -> None:
        self._layout = layout
        self._item = item
        self._recorded = recorded

    def has_feature(self, feature: FeaturePlan) -> bool:
        """Whether everything that the feature needs is available."""
        return feature.expression is None or self._has_node(feature.expression)

    def _has_node(self, node: Expr) -> bool:
        if isinstance(node, Call):
            return all(self._has_node(arg) for arg in node.args)
        if isinstance(node, Column):
            return self._has_column(node.name)
        if isinstance(node, Resolved):
            # Offline resolvers run in batch only: their stored value is read.
            args = node.resolver.args
            return node.resolver.kind == "online" and all(self._has_node(arg.value) for arg in args)
        if isinstance(node, Aggregate | Lookup):
            join = self._item.join(node.join)
            if not all(self._has_column(name) for name in join.own_keys):
                return False
            # Without a reading the joined class is not streamed.
            if isinstance(node, Aggregate):
                return node in self._layout.readings
            # Joined classes have no stored records: their rows are streamed, or they are computed.
            target = self._layout.plan.class_plan(join.target)
            if join.target_keys != (target.key,) and join.target not in self._layout.streamed:
                return False
            return _ComputableFeatures(self._layout, target, ())._has_column(node.feature)
        return isinstance(node, Const | Now)

    def _has_column(self, name: str) -> bool:
        if name == self._item.key or name in self._recorded:
            return True
        feature = self._item.feature(name)
        if feature.expression is None:
            return self._item.namespace in self._layout.streamed
        return self._has_node(feature.expression)


def _build_step(layout: TileLayout, item: ClassPlan, feature: FeaturePlan) -> FeatureStep:
    expression = feature.expression
    assert expression is not None
    nodes = [node for node in walk(expression) if isinstance(node, Aggregate | Lookup)]
    # Equal nodes share a part: each is read once per row.
    places = {node: place for place, node in enumerate(dict.fromkeys(nodes))}
    row_function: RowFunction | None = None
    batch_function: BatchFunction | None = None
    if isinstance(expression, Resolved):
        batch_function = compile_resolver(expression, places)
    # Else the commonest feature of a stream: one aggregate as it is, without a call per row.
    elif nodes != [expression]:
        row_function = compile_expression(expression, places)
    return FeatureStep(
        name=feature.name,
        parts=tuple(_build_part(layout, item, node) for node in places),
        row_function=row_function,
        batch_function=batch_function,
        finalize=feature_finalizer(feature),
    )


def _build_part(
    layout: TileLayout, item: ClassPlan, node: Aggregate | Lookup
) -> AggregatePart | LookupPart:
    join = item.join(node.join)
    if isinstance(node, Aggregate):
        reading = layout.readings[node]
        aggregate = build_aggregation(node, reading, layout.indexes[reading.index])
        return AggregatePart(reading.index, join.own_keys, aggregate)
    target = layout.plan.class_plan(join.target)
    is_by_key = join.target_keys == (target.key,)
    return LookupPart(
        join=join,
        target_key=target.key,
        feature=node.feature,
        row_index=None if is_by_key else layout.rows[join.target, join.target_keys],
        # Without recorded features: only the set's own class has stored records.
        read_plan=build_read_plan(layout, join.target, (node.feature,)),
    )


def compile_expression(node: Expr, places: Mapping[Aggregate | Lookup, int]) -> RowFunction:
    """The expression as a function of a row, the as-of time, and the row's parts.

    Args:
        node: The expression.
        places: Position of each aggregate's and lookup's value among the parts.
    """
    # Closures, so that the tree is walked once per plan instead of once per row.
    if isinstance(node, Column):
        name = node.name
        return lambda row, _now, _parts: row[name]
    if isinstance(node, Now):
        return lambda _row, now, _parts: now
    if isinstance(node, Const):
        value = constant_value(node)
        return lambda _row, _now, _parts: value
    if isinstance(node, Call):
        return _compile_call(node, [compile_expression(arg, places) for arg in node.args])
    # The result of a resolver is always a whole feature: see ``compile_resolver``.
    assert isinstance(node, Aggregate | Lookup)
    place = places[node]
    return lambda _row, _now, parts: parts[place]


def compile_resolver(node: Resolved, places: Mapping[Aggregate | Lookup, int]) -> BatchFunction:
    """A resolver's output as a function of all rows of a read.

    One call gives all outputs of the resolver; they are kept in the row under a name that no
    feature can have.
    """
    # Imports chalkpy and the user's code, which only plans with resolvers need.
    from sunloom.features.resolvers import resolve_rows

    resolver, output, result_key = node.resolver, node.output, f"@{node.resolver.fqn}"
    args = [compile_expression(given.value, places) for given in resolver.args]

    def evaluate(
        rows: Sequence[dict[str, Any]], now: datetime, parts: Sequence[Parts]
    ) -> list[Any]:
        # The rows of a batch are filled together: the first one shows whether all are.
        if rows and result_key not in rows[0]:
            values = [
                [arg(row, now, row_parts) for arg in args]
                for row, row_parts in zip(rows, parts, strict=True)
            ]
            for row, result in zip(rows, resolve_rows(resolver, values, now), strict=True):
                row[result_key] = result
        return [row[result_key][output] for row in rows]

    return evaluate


def _compile_call(node: Call, args: Sequence[RowFunction]) -> RowFunction:
    # Most calls have one or two arguments; spelled out they save a list per row.
    if len(args) == 1:
        only = args[0]
        return lambda row, now, parts: evaluate_call(node, (only(row, now, parts),))
    if len(args) == 2:
        a, b = args
        return lambda row, now, parts: evaluate_call(node, (a(row, now, parts), b(row, now, parts)))
    return lambda row, now, parts: evaluate_call(node, [arg(row, now, parts) for arg in args])


def feature_finalizer(feature: FeaturePlan) -> Callable[[Any], Any]:
    """Gives a value the feature's type, its default where it is missing, and its strict limits."""
    default = None if feature.default is None else constant_value(feature.default)
    strict = [check for check in feature.validations if check.strict]
    is_float = feature.dtype == "float64"

    def finalize(value: Any) -> Any:
        # In the engine's order: the default, then the limits, which may replace it by null.
        if value is None:
            value = default
        elif is_float and not isinstance(value, float):
            value = float(value)
        if strict and value is not None and not all(is_within(value, check) for check in strict):
            return None
        return value

    return finalize
