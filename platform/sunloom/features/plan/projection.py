"""Which columns of which sources a plan reads, and by which keys the work can be cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sunloom.features.plan.expressions import Aggregate, Lookup, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, Plan


@dataclass(frozen=True)
class SourceProjection:
    """What one class's source must offer.

    Attributes:
        columns: Features to read, key and event time included where they are used.
        partition_by: Columns equal to the entity's key, or None where every partition needs all
            rows.
    """

    columns: tuple[str, ...]
    partition_by: tuple[str, ...] | None


def source_projections(plan: Plan) -> Mapping[str, SourceProjection]:
    """Namespace to what its source must offer; classes that are only computed are absent."""
    walker = _Walker(plan)
    walker.visit_all(plan.namespace, plan.outputs)
    return {
        namespace: SourceProjection(
            columns=tuple(f.name for f in plan.class_plan(namespace).features if f.name in names),
            partition_by=walker.partition.get(namespace),
        )
        for namespace, names in walker.columns.items()
    }


class _Walker:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.columns: dict[str, set[str]] = {}
        self.partition: dict[str, tuple[str, ...] | None] = {}
        self._seen: set[tuple[str, str]] = set()

    def visit_all(self, namespace: str, names: tuple[str, ...]) -> None:
        for name in names:
            self._visit(namespace, name)

    def _visit(self, namespace: str, name: str) -> None:
        if (namespace, name) in self._seen:
            return
        self._seen.add((namespace, name))
        item = self.plan.class_plan(namespace)
        expression = item.feature(name).expression
        if expression is None:
            self._read_by_key(item, name)
            return
        for column in own_columns(expression):
            self._visit(namespace, column)
        for node in walk(expression):
            if isinstance(node, Aggregate):
                self._aggregate(item, node)
            elif isinstance(node, Lookup):
                self._look_up(item, node)

    def _read_by_key(self, item: ClassPlan, name: str) -> None:
        if name == item.key and item.namespace == self.plan.namespace:
            return
        wanted = {item.key, name} | ({item.time} if item.time else set())
        self._read(item.namespace, wanted, (item.key,), from_root=self._is_root(item))

    def _aggregate(self, item: ClassPlan, node: Aggregate) -> None:
        join = item.join(node.join)
        target = self.plan.class_plan(join.target)
        wanted = {name for name in (node.window.column,) if name}
        by_entity = self._is_root(item) and join.own_keys == (item.key,)
        for name in join.own_keys:
            if name != item.key:
                self._visit(item.namespace, name)
        roots = [own_columns(part) for part in node.parts]
        needed = set(join.target_keys).union(*roots)
        wanted |= _sources_of(target, needed)
        self._read(join.target, wanted, join.target_keys, from_root=by_entity)

    def _look_up(self, item: ClassPlan, node: Lookup) -> None:
        join = item.join(node.join)
        for name in join.own_keys:
            if name != item.key:
                self._visit(item.namespace, name)
        target = self.plan.class_plan(join.target)
        if join.target_keys != (target.key,):
            wanted = {*join.target_keys, target.key} | ({target.time} if target.time else set())
            self._read(join.target, wanted, join.target_keys, from_root=False)
        self._visit(join.target, node.feature)

    def _is_root(self, item: ClassPlan) -> bool:
        return item.namespace == self.plan.namespace

    def _read(
        self, namespace: str, names: set[str], keys: tuple[str, ...], *, from_root: bool
    ) -> None:
        self.columns.setdefault(namespace, set()).update(names)
        wanted = keys if from_root else None
        held = self.partition.setdefault(namespace, wanted)
        if held != wanted:
            self.partition[namespace] = None


def _sources_of(item: ClassPlan, names: set[str]) -> set[str]:
    """The source columns behind features that are computed from their own row."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        expression = item.feature(name).expression
        if expression is None:
            found.add(name)
        else:
            waiting.extend(own_columns(expression))
    return found
