"""Limits of values: what lies outside them, and how many did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import Any

import polars as pl

from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Aggregate, inner, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan, Validation


def within(value: pl.Expr, check: Validation, dtype: DType) -> pl.Expr:
    """Whether the value is inside the limits; null where the value is."""
    limits: list[pl.Expr] = [pl.when(value.is_not_null()).then(True)]
    if check.min is not None:
        limits.append(value >= check.min)
    if check.max is not None:
        limits.append(value <= check.max)
    if check.min_length is not None:
        limits.append(_length(value, dtype) >= check.min_length)
    if check.max_length is not None:
        limits.append(_length(value, dtype) <= check.max_length)
    if check.contains is not None:
        limits.append(_contains(value, check.contains, dtype))
    return reduce(and_, limits)


def is_within(value: Any, check: Validation) -> bool:
    """The same of a plain value that is not None; NaN is larger than every number."""
    is_nan = value != value
    if check.min is not None and not (is_nan or value >= check.min):
        return False
    if check.max is not None and (is_nan or value > check.max):
        return False
    if check.min_length is not None and len(value) < check.min_length:
        return False
    if check.max_length is not None and len(value) > check.max_length:
        return False
    return check.contains is None or check.contains in value


def _length(value: pl.Expr, dtype: DType) -> pl.Expr:
    return value.list.len() if isinstance(dtype, ListType) else value.str.len_chars()


def _contains(value: pl.Expr, wanted: Any, dtype: DType) -> pl.Expr:
    if isinstance(dtype, ListType):
        return value.list.contains(wanted)
    return value.str.contains(str(wanted), literal=True)


def limited(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """The value, or null where a strict limit refuses it."""
    for check in feature.validations:
        if check.strict:
            value = pl.when(within(value, check, feature.dtype)).then(value)
    return value


def outside(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """How many values lie outside any limit, strict or not."""
    held = [within(value, check, feature.dtype) for check in feature.validations]
    return (~reduce(and_, held)).sum()


def count_rows(plan: Plan, namespace: str, frame: pl.DataFrame) -> Counter[str]:
    """Values outside their limits among a class's source rows.

    Features of a row are counted where they are read, not where they are used: a row may be used
    by many questions, and by several workers.

    Args:
        plan: What is computed.
        namespace: The class.
        frame: Its source rows in the plan's types.
    """
    from sunloom.features.engine.source_rows import SourceRows, filled

    item = plan.of(namespace)
    read = [f for f in item.features if f.validations and f.name in frame.columns]
    made = [f for f in _made_of_rows(plan, item) if f.validations]
    if not read and not made:
        return Counter()
    counts = frame.select(
        [outside(f, filled(f, pl.col(f.name))).alias(f.fqn) for f in read]
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
