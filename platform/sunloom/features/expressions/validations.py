"""Limits of values: what lies outside them, and how many did."""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

import polars as pl

from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.feature_sets import FeaturePlan, Validation


def within_limits(value: pl.Expr, check: Validation, dtype: DType) -> pl.Expr:
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


def enforce_limits(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """The value, or null where a strict limit refuses it."""
    for check in feature.validations:
        if check.strict:
            value = pl.when(within_limits(value, check, feature.dtype)).then(value)
    return value


def violation_count(feature: FeaturePlan, value: pl.Expr) -> pl.Expr:
    """How many values lie outside any limit, strict or not."""
    held = [within_limits(value, check, feature.dtype) for check in feature.validations]
    return (~reduce(and_, held)).sum()
