"""Projections of a plan's sources: which columns it reads, and by which keys rows may be split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sunloom.features.plan.expressions import Aggregate, Lookup, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, JoinPlan, Plan


@dataclass(frozen=True)
class SourceProjection:
    """What a plan reads of one class's source.

    Attributes:
        columns: Features to read, key and event time included where they are used.
        partition_by: Columns equal to the entity's key, or None where every partition needs all
            rows.
    """

    columns: tuple[str, ...]
    partition_by: tuple[str, ...] | None


def source_projections(plan: Plan) -> Mapping[str, SourceProjection]:
    """Namespace to the projection of its source; classes that are only computed are absent."""
    collector = _Collector(plan)
    for name in plan.outputs:
        collector.visit(plan.root, name)
    return {
        namespace: SourceProjection(
            columns=tuple(f.name for f in plan.class_plan(namespace).features if f.name in names),
            partition_by=collector.partition_by[namespace],
        )
        for namespace, names in collector.columns.items()
    }


class _Collector:
    """Follows features down to the columns that are read, and by which keys each source is read."""

    def __init__(self, plan: Plan) -> None:
        self.columns: dict[str, set[str]] = {}
        self.partition_by: dict[str, tuple[str, ...] | None] = {}
        self._plan = plan
        self._seen: set[tuple[str, str]] = set()

    def visit(self, item: ClassPlan, name: str) -> None:
        """Collect what one feature of a class needs."""
        if (item.namespace, name) in self._seen:
            return
        self._seen.add((item.namespace, name))
        expression = item.feature(name).expression
        if expression is None:
            # The entity's own key is given by the spine.
            if name != item.key or not self._is_root(item):
                names = {item.key, name} | _time_of(item)
                self._read(item, names, (item.key,), by_entity=self._is_root(item))
            return
        # Expressions are followed to their sources: computed features are columns of none.
        for column in own_columns(expression):
            self.visit(item, column)
        for node in walk(expression):
            if isinstance(node, Aggregate):
                self._visit_aggregate(item, node)
            elif isinstance(node, Lookup):
                self._visit_lookup(item, node)

    def _visit_aggregate(self, item: ClassPlan, node: Aggregate) -> None:
        join = item.join(node.join)
        self._visit_own_keys(item, join)
        target = self._plan.class_plan(join.target)
        names = set(join.target_keys).union(*(own_columns(part) for part in node.parts))
        columns = _source_columns(target, names)
        if node.window.column is not None:
            columns.add(node.window.column)
        by_entity = self._is_root(item) and join.own_keys == (item.key,)
        self._read(target, columns, join.target_keys, by_entity=by_entity)

    def _visit_lookup(self, item: ClassPlan, node: Lookup) -> None:
        join = item.join(node.join)
        self._visit_own_keys(item, join)
        target = self._plan.class_plan(join.target)
        if join.target_keys != (target.key,):
            # The latest row by other columns decides the key that the feature is then read by.
            names = {*join.target_keys, target.key} | _time_of(target)
            self._read(target, names, join.target_keys, by_entity=False)
        self.visit(target, node.feature)

    def _visit_own_keys(self, item: ClassPlan, join: JoinPlan) -> None:
        for name in join.own_keys:
            if name != item.key:
                self.visit(item, name)

    def _is_root(self, item: ClassPlan) -> bool:
        return item.namespace == self._plan.namespace

    def _read(
        self, item: ClassPlan, names: Iterable[str], keys: tuple[str, ...], *, by_entity: bool
    ) -> None:
        self.columns.setdefault(item.namespace, set()).update(names)
        partition_by = keys if by_entity else None
        # One read that is not by the entity's key, or by other columns, needs all rows everywhere.
        if self.partition_by.setdefault(item.namespace, partition_by) != partition_by:
            self.partition_by[item.namespace] = None


def _time_of(item: ClassPlan) -> set[str]:
    return {item.time} if item.time else set()


def _source_columns(item: ClassPlan, names: Iterable[str]) -> set[str]:
    """The source columns behind features that are computed from their own row."""
    columns: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        expression = item.feature(name).expression
        if expression is None:
            columns.add(name)
        else:
            waiting.extend(own_columns(expression))
    return columns
