"""Validations of a feature's values: its type, default and limits, and counts of violations."""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

import polars as pl

from sunloom.features.expressions.to_polars import to_polars
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.feature_sets import FeaturePlan, Validation
from sunloom.features.plan.polars_dtypes import POLARS


def within_limits(value: pl.Expr, check: Validation, dtype: DType) -> pl.Expr:
    """Whether the value is within the limits; null where the value is null."""
    # The first condition makes a check without limits null for a null too.
    conditions: list[pl.Expr] = [pl.when(value.is_not_null()).then(True)]
    if check.min is not None:
        conditions.append(value >= check.min)
    if check.max is not None:
        conditions.append(value <= check.max)
    length = value.list.len() if isinstance(dtype, ListType) else value.str.len_chars()
    if check.min_length is not None:
        conditions.append(length >= check.min_length)
    if check.max_length is not None:
        conditions.append(length <= check.max_length)
    if check.contains is not None and isinstance(dtype, ListType):
        conditions.append(value.list.contains(check.contains))
    elif check.contains is not None:
        conditions.append(value.str.contains(str(check.contains), literal=True))
    return reduce(and_, conditions)


def is_within(value: Any, check: Validation) -> bool:
    """Whether a plain value that is not None is within the limits, as ``within_limits`` says."""
    # Polars orders NaN after every number; to Python all comparisons with it are false.
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


def finish_value(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """The feature's value in its type, with its default, within its limits, under its name.

    The default replaces a missing value, never one that a strict limit made null.
    """
    value = _fill_default(feature, value)
    for check in feature.validations:
        if check.strict:
            value = pl.when(within_limits(value, check, feature.dtype)).then(value)
    return value.alias(feature.name)


def violation_count(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """How many values, or their defaults, violate a limit, strict or not; null violates none."""
    value = _fill_default(feature, value)
    conditions = [within_limits(value, check, feature.dtype) for check in feature.validations]
    return (~reduce(and_, conditions)).sum()


def _fill_default(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    value = value.cast(POLARS[feature.dtype])
    return value if feature.default is None else value.fill_null(to_polars(feature.default))
