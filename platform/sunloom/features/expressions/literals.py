"""Literals of a plan: plain Python values as constants and back, and the types they unify to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Const
from sunloom.features.plan.polars_dtypes import EPOCH, EPOCH_DAY, NUMBERS, epoch_days, epoch_us

_COUNTED = ("datetime", "date", "duration")
"""Types whose literals and stored values are whole numbers: microseconds, or days of dates."""


def constant(value: Any) -> Const | None:
    """A plain value, or a list of scalars, as a literal; None if it cannot be one."""
    if isinstance(value, list | tuple):
        return _constant_list(value)
    if isinstance(value, set | frozenset):
        # The order of a set changes from run to run, and the plan's fingerprint must not.
        return _constant_list(sorted(value, key=repr))
    if value is None:
        return Const(value=None, dtype="null")
    if isinstance(value, Enum):
        return constant(value.value)
    # Before int: to Python, True is one.
    if isinstance(value, bool):
        return Const(value=value, dtype="bool")
    if isinstance(value, int):
        return Const(value=value, dtype="int64") if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        # A plan is JSON, which has no NaN and no infinity.
        return Const(value=value, dtype="float64") if math.isfinite(value) else None
    if isinstance(value, str):
        return Const(value=value, dtype="string")
    if isinstance(value, timedelta):
        return Const(value=value // timedelta(microseconds=1), dtype="duration")
    if isinstance(value, datetime) and value.tzinfo is not None:
        return Const(value=epoch_us(value), dtype="datetime")
    # To Python, a datetime is a date: one without a time zone is no literal.
    if isinstance(value, date) and not isinstance(value, datetime):
        return Const(value=epoch_days(value), dtype="date")
    return None


def _constant_list(values: Sequence[Any]) -> Const | None:
    items = [constant(value) for value in values]
    scalars = [item for item in items if item is not None and not isinstance(item.value, tuple)]
    item_type = unify([item.dtype for item in scalars] or ["null"])
    if len(scalars) < len(items) or item_type is None or item_type in _COUNTED:
        return None
    plain = tuple(
        float(item.value) if isinstance(item.value, int) and item_type == "float64" else item.value
        for item in scalars
    )
    return Const(value=plain, dtype=ListType(item=item_type))


def unify(types: Sequence[DType]) -> DType | None:
    """The common type: numbers are widened and null fits any type; None if there is none."""
    # Null is the type of the literal None alone, which any type has.
    known = {t for t in types if t != "null"}
    if not known:
        return "null" if types else None
    if len(known) == 1:
        return next(iter(known))
    if known <= set(NUMBERS):
        return "float64"
    items = {t.item for t in known if isinstance(t, ListType)}
    # The literal of an empty list has no item type of its own, and fits any list.
    typed = [t for t in known if t != ListType(item="null")]
    return typed[0] if len(items) == len(known) and len(typed) == 1 else None


def constant_value(node: Const) -> Any:
    """The literal as a plain value; dates, datetimes and durations as Python's own."""
    if isinstance(node.dtype, ListType) and isinstance(node.value, tuple):
        return [python_value(value, node.dtype.item) for value in node.value]
    return python_value(node.value, node.dtype)


def python_value(stored: Any, dtype: DType) -> Any:
    """The Python value of a stored one: microseconds of times, days of dates."""
    if stored is None or dtype not in _COUNTED:
        return stored
    if dtype == "date":
        return EPOCH_DAY + timedelta(days=stored)
    length = timedelta(microseconds=stored)
    return EPOCH + length if dtype == "datetime" else length
