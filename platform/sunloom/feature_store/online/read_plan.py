"""What a read does for one class, made once a plan: which values are stored, looked up, folded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sunloom.feature_store.online.row_functions import Ask, Evaluate, asking, compiled, finishing
from sunloom.feature_store.online.tile_windows import Value, aggregation
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.features.engine.source_rows import in_order
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


@dataclass(frozen=True)
class Folded:
    """An aggregate: which index by which of the row's values, and how its value is made."""

    index: int
    own_keys: tuple[str, ...]
    value: Value


@dataclass(frozen=True)
class Found:
    """A lookup: another class's program, by its key or by the latest row of other columns."""

    join: JoinPlan
    target_key: str
    feature: str
    by_row: int | None
    program: Program


@dataclass(frozen=True)
class Step:
    """One feature that is computed; without ``evaluate`` and ``ask`` it is its one part."""

    name: str
    parts: tuple[Folded | Found, ...]
    evaluate: Evaluate | None
    ask: Ask | None
    finish: Callable[[Any], Any]


@dataclass(frozen=True)
class Program:
    """How one class's features are made.

    Attributes:
        item: The class.
        row_index: The index that holds its latest rows; None where it is not streamed.
        sources: Features read from such a row, each with its default.
        limits: How old the row may be for a feature of it; older, its default stands.
        stored: Features taken from the stored record.
        steps: The others, each after what it needs.
    """

    item: ClassPlan
    row_index: int | None
    sources: Mapping[str, Any]
    limits: Mapping[str, timedelta]
    stored: tuple[str, ...]
    steps: tuple[Step, ...]


def build_program(
    layout: TileLayout, namespace: str, names: Sequence[str], recorded: Collection[str] = ()
) -> Program:
    """The program of one class's features.

    Args:
        layout: What the stream keeps.
        namespace: The class.
        names: The wanted features.
        recorded: Features that a stored record of the class holds.
    """
    item = layout.plan.class_plan(namespace)
    live = _Live(layout, item, recorded)
    order = in_order(item, names)
    features = [item.feature(name) for name in order]
    computed = [f for f in features if f.expression is not None and live.is_live(f)]
    is_streamed = namespace in layout.streamed
    sources = [f for f in features if f.expression is None and is_streamed]
    taken = {f.name for f in (*computed, *sources)}
    return Program(
        item=item,
        row_index=layout.rows.get((namespace, (item.key,))) if sources else None,
        sources={f.name: finishing(f)(None) for f in sources},
        limits={
            f.name: timedelta(microseconds=f.max_staleness_us)
            for f in sources
            if f.max_staleness_us is not None
        },
        stored=tuple(name for name in order if name not in taken),
        steps=tuple(_step(layout, item, feature) for feature in computed),
    )


class _Live:
    """Which features can be computed at a read."""

    def __init__(self, layout: TileLayout, item: ClassPlan, recorded: Collection[str]) -> None:
        self._layout = layout
        self._item = item
        self._recorded = recorded

    def is_live(self, feature: FeaturePlan) -> bool:
        """Whether everything that the feature needs is at hand."""
        if feature.expression is None:
            return True
        return self._is_live(feature.expression)

    def _is_live(self, node: Expr) -> bool:
        if isinstance(node, Call):
            return all(self._is_live(arg) for arg in node.args)
        if isinstance(node, Column):
            return self._is_at_hand(node.name)
        if isinstance(node, Resolved):
            given = (one.value for one in node.resolver.args)
            return node.resolver.kind == "online" and all(self._is_live(one) for one in given)
        if isinstance(node, Aggregate | Lookup):
            join = self._item.join(node.join)
            if not all(self._is_at_hand(name) for name in join.own_keys):
                return False
            if isinstance(node, Aggregate):
                return node in self._layout.readings
            return self._is_found(join, node)
        return isinstance(node, Const | Now)

    def _is_at_hand(self, name: str) -> bool:
        if name == self._item.key or name in self._recorded:
            return True
        feature = self._item.feature(name)
        if feature.expression is None:
            return self._item.namespace in self._layout.streamed
        return self._is_live(feature.expression)

    def _is_found(self, join: JoinPlan, node: Lookup) -> bool:
        """The other class has no records of its own: its rows are streamed, or it is computed."""
        target = self._layout.plan.class_plan(join.target)
        is_by_key = join.target_keys == (target.key,)
        if not is_by_key and join.target not in self._layout.streamed:
            return False
        return _Live(self._layout, target, ())._is_at_hand(node.feature)


def _step(layout: TileLayout, item: ClassPlan, feature: FeaturePlan) -> Step:
    assert feature.expression is not None
    nodes = [n for n in walk(feature.expression) if isinstance(n, Aggregate | Lookup)]
    places: dict[Aggregate | Lookup, int] = {}
    for node in nodes:
        places.setdefault(node, len(places))
    made = feature.expression
    return Step(
        name=feature.name,
        parts=tuple(_part(layout, item, node) for node in places),
        evaluate=None if isinstance(made, Resolved) or nodes == [made] else compiled(made, places),
        ask=asking(made, places) if isinstance(made, Resolved) else None,
        finish=finishing(feature),
    )


def _part(layout: TileLayout, item: ClassPlan, node: Aggregate | Lookup) -> Folded | Found:
    join = item.join(node.join)
    if isinstance(node, Aggregate):
        reading = layout.readings[node]
        value = aggregation(node, reading, layout.indexes[reading.index])
        return Folded(reading.index, join.own_keys, value)
    target = layout.plan.class_plan(join.target)
    by_row = None
    if join.target_keys != (target.key,):
        by_row = layout.rows[join.target, join.target_keys]
    program = build_program(layout, join.target, (node.feature,))
    return Found(join, target.key, node.feature, by_row, program)
