"""Counts of source rows whose values violate their features' limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl

from sunloom.features.engine.source_rows import SourceRows, fill_default
from sunloom.features.expressions.validations import violation_count
from sunloom.features.plan.expressions import Aggregate, inner, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan


def count_violations(plan: Plan, namespace: str, frame: pl.DataFrame) -> Counter[str]:
    """Violations of limits among a class's source rows, by the features' full names.

    A row is counted where it is read, not where it is used: many query rows, and several workers,
    may use the same one.

    Args:
        plan: What is computed.
        namespace: The class.
        frame: Its source rows in the plan's types.
    """
    item = plan.class_plan(namespace)
    counts: dict[str, int] = {}
    columns = [f for f in item.features if f.validations and f.name in frame.columns]
    if columns:
        expressions = [
            violation_count(f, fill_default(f, pl.col(f.name))).alias(f.fqn) for f in columns
        ]
        counts |= frame.select(expressions).row(0, named=True)
    computed = [f for f in _computed_per_row(plan, item) if f.validations]
    if computed:
        rows = SourceRows(item, frame)
        counts |= {feature.fqn: rows.violations(feature) for feature in computed}
    return Counter({name: count for name, count in counts.items() if count})


def _computed_per_row(plan: Plan, item: ClassPlan) -> Sequence[FeaturePlan]:
    """Features that aggregates over the class compute from a row alone."""
    waiting = {
        name
        for owner in plan.classes
        for feature in owner.features
        if feature.expression is not None
        for node in walk(feature.expression)
        if isinstance(node, Aggregate) and owner.join(node.join).target == item.namespace
        for part in inner(node)
        for name in own_columns(part)
    }
    computed: dict[str, FeaturePlan] = {}
    while waiting:
        feature = item.feature(waiting.pop())
        if feature.expression is not None and feature.name not in computed:
            computed[feature.name] = feature
            waiting |= own_columns(feature.expression)
    return list(computed.values())
