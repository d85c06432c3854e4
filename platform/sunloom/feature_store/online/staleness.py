"""How long a stored value holds: beside each that may grow stale lies the moment when it does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sunloom.features.engine.source_rows import in_order
from sunloom.features.plan.expressions import Call, Column, Const, Expr, Now
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

_MARK = "__until__"


def is_until(name: str) -> bool:
    """Whether a column of a record holds the end of another's time."""
    return name.endswith(_MARK)


def with_ends(plan: Plan) -> Plan:
    """The plan with one more output for each that may grow stale: the last moment it holds.

    A value that was read holds from the moment that it was observed, a computed one from now.
    """
    root = plan.root
    ends = [_end(root, feature) for feature in _stale(plan)]
    if not ends:
        return plan
    classes = tuple(
        item.model_copy(update={"features": (*item.features, *ends)}) if item is root else item
        for item in plan.classes
    )
    outputs = (*plan.outputs, *(end.name for end in ends))
    return plan.model_copy(update={"outputs": outputs, "classes": classes})


def ends_of(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Output to the columns with the ends of what it is made of; others are left out."""
    names = {feature.name for feature in _stale(plan)}
    needed = {output: in_order(plan.root, [output]) for output in plan.outputs}
    found = {
        output: tuple(name + _MARK for name in made_of if name in names)
        for output, made_of in needed.items()
    }
    return {output: ends for output, ends in found.items() if ends}


def has_ended(record: Mapping[str, Any], ends: tuple[str, ...], now: datetime) -> bool:
    """Whether any of what a stored value is made of is too old."""
    return any(record[end] is not None and record[end] < now for end in ends if end in record)


def _stale(plan: Plan) -> list[FeaturePlan]:
    features = [plan.root.feature(name) for name in plan.outputs]
    return [feature for feature in features if feature.max_staleness_us is not None]


def _end(item: ClassPlan, feature: FeaturePlan) -> FeaturePlan:
    start: Expr = Now()
    if feature.expression is None and item.time is not None:
        start = Column(name=item.time, dtype="datetime")
    length = Const(value=feature.max_staleness_us, dtype="duration")
    return FeaturePlan(
        name=feature.name + _MARK,
        fqn=feature.fqn + _MARK,
        dtype="datetime",
        nullable=True,
        expression=Call(function="+", args=(start, length), dtype="datetime"),
    )
