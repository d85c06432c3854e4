"""Staleness of stored values: a record holds the expiry time of each that may grow stale."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sunloom.features.engine.source_rows import evaluation_order
from sunloom.features.plan.expressions import Call, Column, Const, Expr, Now
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

# Part of the stored records: must not change.
_SUFFIX = "__until__"


def is_expiry_column(name: str) -> bool:
    """Whether a column of a record holds the expiry time of another one."""
    return name.endswith(_SUFFIX)


def with_expiry(plan: Plan) -> Plan:
    """The plan with one more output for each feature with a maximum staleness: its expiry time.

    A value that was read expires that long after its event time, a computed one after now.
    """
    root = plan.root
    expiries = [_expiry_feature(root, feature) for feature in _limited_features(plan)]
    if not expiries:
        return plan
    classes = tuple(
        item.model_copy(update={"features": (*item.features, *expiries)}) if item is root else item
        for item in plan.classes
    )
    outputs = (*plan.outputs, *(feature.name for feature in expiries))
    return plan.model_copy(update={"outputs": outputs, "classes": classes})


def expiry_columns(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Output to the expiry columns of everything it is computed from; others are left out."""
    limited = {feature.name for feature in _limited_features(plan)}
    columns = {
        output: tuple(
            name + _SUFFIX for name in evaluation_order(plan.root, [output]) if name in limited
        )
        for output in plan.outputs
    }
    return {output: names for output, names in columns.items() if names}


def is_expired(record: Mapping[str, Any], columns: tuple[str, ...], now: datetime) -> bool:
    """Whether any of the expiry times has passed."""
    # Records that were written before a feature had a limit lack its column.
    return any(
        record[column] is not None and record[column] < now
        for column in columns
        if column in record
    )


def _limited_features(plan: Plan) -> list[FeaturePlan]:
    features = [plan.root.feature(name) for name in plan.outputs]
    return [feature for feature in features if feature.max_staleness_us is not None]


def _expiry_feature(item: ClassPlan, feature: FeaturePlan) -> FeaturePlan:
    start: Expr = Now()
    if feature.expression is None and item.time is not None:
        start = Column(name=item.time, dtype="datetime")
    length = Const(value=feature.max_staleness_us, dtype="duration")
    return FeaturePlan(
        name=feature.name + _SUFFIX,
        fqn=feature.fqn + _SUFFIX,
        dtype="datetime",
        nullable=True,
        expression=Call(function="+", args=(start, length), dtype="datetime"),
    )
