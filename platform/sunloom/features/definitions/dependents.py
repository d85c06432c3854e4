"""Dependents of what cannot be bound: they become unavailable too, as do circles of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sunloom.errors import DefinitionError
from sunloom.features.definitions.declarations import Location
from sunloom.features.definitions.failures import Failures, dependent_reason
from sunloom.features.plan.expressions import (
    Aggregate,
    Column,
    Expr,
    Lookup,
    Now,
    inner,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan

Classes = Mapping[str, ClassPlan]


def withdraw_dependents(
    bound: Sequence[ClassPlan], locations: Mapping[str, Location], failures: Failures
) -> tuple[ClassPlan, ...]:
    """The classes with the features and joins that have all they need.

    Args:
        bound: Classes with what could be bound by itself.
        locations: Namespace of a class, or full name of a feature, to where it stands.
        failures: What cannot be bound; receives circles and dependents.
    """
    checks = _DependencyChecks(locations, failures)
    classes = checks.withdraw({item.namespace: item for item in bound})
    # Both follow features into other classes, so all that they follow must be there.
    checks.refuse_time_dependent_rows(classes)
    checks.refuse_circles(classes)
    return tuple(checks.withdraw(classes).values())


class _DependencyChecks:
    def __init__(self, locations: Mapping[str, Location], failures: Failures) -> None:
        self._locations = locations
        self._failures = failures
        self._root_whys: dict[str, str] = {}

    def _refuse(self, name: str, reason: str, hint: str) -> None:
        location = self._locations[name]
        self._failures.add(
            DefinitionError.of_construct(location.file, location.line, reason, name=name, hint=hint)
        )

    def withdraw(self, classes: Classes) -> Classes:
        """Classes without what is unavailable, and without what needs it, however far away."""
        while True:
            remaining = {name: self._available(item) for name, item in classes.items()}
            # Without a key, or the event time that hides later rows, no row can be read.
            for name, item in list(remaining.items()):
                if missing := [
                    fqn
                    for fqn in (f"{name}.{item.key}", f"{name}.{item.time}")
                    if fqn in self._failures
                ]:
                    self._refuse_dependent(name, missing[0])
                    del remaining[name]
            found, known = False, _names(remaining)
            for item in remaining.values():
                for fqn, needed in _dependencies(item):
                    lost = next((name for name in needed if name not in known), None)
                    if lost is not None and fqn not in self._failures:
                        self._refuse_dependent(fqn, lost)
                        found = True
            if not found and len(remaining) == len(classes):
                return remaining
            classes = remaining

    def _available(self, item: ClassPlan) -> ClassPlan:
        features = tuple(f for f in item.features if f.fqn not in self._failures)
        joins = tuple(j for j in item.joins if f"{item.namespace}.{j.name}" not in self._failures)
        # The same object where all is available: nearly always.
        if (len(features), len(joins)) == (len(item.features), len(item.joins)):
            return item
        return item.model_copy(update={"features": features, "joins": joins})

    def _refuse_dependent(self, name: str, lost: str) -> None:
        # Nothing of a class that is unavailable as a whole has failed by itself.
        cause = self._failures[lost if lost in self._failures else lost.split(".")[0]]
        # Of a chain of dependents, the feature at its end is what must be mended.
        why = self._root_whys.setdefault(name, self._root_whys.get(cause.feature, cause.why))
        self._refuse(name, dependent_reason(lost, why), cause.hint)

    def refuse_time_dependent_rows(self, classes: Classes) -> None:
        """Rows that are aggregated, or passed to a resolver, are computed once, for every time."""
        for item in classes.values():
            for feature in item.features:
                for node in _nodes(feature):
                    if isinstance(node, Aggregate):
                        target = classes[item.join(node.join).target]
                        self._check_columns(target, node, feature)

    def _check_columns(self, target: ClassPlan, aggregate: Aggregate, feature: FeaturePlan) -> None:
        waiting = {name for part in inner(aggregate) for name in own_columns(part)}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            expression = target.feature(name).expression
            if expression is None:
                continue
            if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(expression)):
                resolver = feature.resolver
                by = f"resolver {resolver.place}: " if resolver is not None else ""
                self._refuse(
                    feature.fqn,
                    f"{by}it takes rows of {target.class_name} with {target.feature(name).fqn}, "
                    "which depends on the as-of time or on other rows",
                    "Take features that are read, or computed from their own row.",
                )
                return
            waiting |= own_columns(expression) - seen

    def refuse_circles(self, classes: Classes) -> None:
        """Follow features through expressions, lookups and aggregates."""
        # Features that many others need are followed once: otherwise the walk is exponential.
        done: set[str] = set()
        needs = {
            feature.fqn: sorted(set(_needs(item, feature)))
            for item in classes.values()
            for feature in item.features
        }

        def visit(fqn: str, path: tuple[str, ...]) -> tuple[str, ...]:
            if fqn in path:
                return (*path[path.index(fqn) :], fqn)
            if fqn in done:
                return ()
            for needed in needs.get(fqn, ()):
                if circle := visit(needed, (*path, fqn)):
                    return circle
            done.add(fqn)
            return ()

        for fqn in needs:
            circle = visit(fqn, ())
            done.update(circle)
            for member in circle[:-1]:
                self._refuse(
                    member,
                    f"features depend on each other in a circle: {' → '.join(circle)}",
                    "Compute one of them from source features only.",
                )


def _names(classes: Classes) -> set[str]:
    """Full names of everything that is there: classes, features and joins."""
    names = set(classes)
    for item in classes.values():
        names |= {f"{item.namespace}.{feature.name}" for feature in item.features}
        names |= {f"{item.namespace}.{join.name}" for join in item.joins}
    return names


def _dependencies(item: ClassPlan) -> Iterator[tuple[str, Sequence[str]]]:
    """Full name of each feature and join of the class to what it needs directly."""
    for join in item.joins:
        yield (
            f"{item.namespace}.{join.name}",
            [
                join.target,
                *(f"{item.namespace}.{key}" for key in join.own_keys),
                *(f"{join.target}.{key}" for key in join.target_keys),
            ],
        )
    for feature in item.features:
        yield feature.fqn, list(_needs(item, feature))


def _needs(item: ClassPlan, feature: FeaturePlan) -> Iterator[str]:
    """Full names of features and joins that the feature is computed from directly."""
    joins = {join.name: join.target for join in item.joins}
    for node in _nodes(feature):
        if isinstance(node, Column):
            yield f"{item.namespace}.{node.name}"
        elif isinstance(node, Aggregate | Lookup):
            yield f"{item.namespace}.{node.join}"
            # Of a lost join, the join itself is what is needed.
            target = joins.get(node.join)
            parts = node.parts if isinstance(node, Aggregate) else ()
            names = {node.feature} if isinstance(node, Lookup) else set()
            names |= {column for part in parts for column in own_columns(part)}
            if target is not None:
                yield from (f"{target}.{name}" for name in sorted(names))


def _nodes(feature: FeaturePlan) -> Iterator[Expr]:
    """Every node of what computes the feature, in training and online."""
    for expression in (feature.expression, feature.online):
        if expression is not None:
            yield from walk(expression)
