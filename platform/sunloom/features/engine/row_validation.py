"""Counts of source rows whose values violate their features' limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl

from sunloom.features.engine.source_rows import SourceRows, filled
from sunloom.features.expressions.validations import violation_count
from sunloom.features.plan.expressions import Aggregate, inner, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan


def count_violations(plan: Plan, namespace: str, frame: pl.DataFrame) -> Counter[str]:
    """Values outside their limits among a class's source rows.

    Features of a row are counted where they are read, not where they are used: a row may be used
    by many questions, and by several workers.

    Args:
        plan: What is computed.
        namespace: The class.
        frame: Its source rows in the plan's types.
    """
    item = plan.class_plan(namespace)
    read = [f for f in item.features if f.validations and f.name in frame.columns]
    made = [f for f in _made_of_rows(plan, item) if f.validations]
    if not read and not made:
        return Counter()
    counts = frame.select(
        [violation_count(f, filled(f, pl.col(f.name))).alias(f.fqn) for f in read]
        + [pl.lit(0).alias("__none__")]
    ).row(0, named=True)
    del counts["__none__"]
    rows = SourceRows(item, frame)
    for feature in made:
        counts[feature.fqn] = rows.outside(feature)
    return Counter({name: count for name, count in counts.items() if count})


def _made_of_rows(plan: Plan, item: ClassPlan) -> Sequence[FeaturePlan]:
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
    found: dict[str, FeaturePlan] = {}
    while waiting:
        feature = item.feature(waiting.pop())
        if feature.expression is not None and feature.name not in found:
            found[feature.name] = feature
            waiting |= own_columns(feature.expression)
    return list(found.values())
