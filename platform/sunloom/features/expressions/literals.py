"""Literals of a plan: plain Python values as constants, and constants as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import Const
from sunloom.features.plan.polars_dtypes import EPOCH, unify

_MICROSECOND = timedelta(microseconds=1)


def constant(value: Any) -> Const | None:
    """A literal, or None where the value has no plain form; a list of scalars is one."""
    if isinstance(value, list | tuple):
        return _constant_list(value)
    if isinstance(value, set | frozenset):
        return _constant_list(sorted(value, key=repr))
    if value is None:
        return Const(value=None, dtype="null")
    if isinstance(value, Enum):
        return constant(value.value)
    if isinstance(value, bool):
        return Const(value=value, dtype="bool")
    if isinstance(value, int):
        return Const(value=value, dtype="int64") if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return Const(value=value, dtype="float64") if math.isfinite(value) else None
    if isinstance(value, str):
        return Const(value=value, dtype="string")
    if isinstance(value, timedelta):
        return Const(value=value // _MICROSECOND, dtype="duration")
    if isinstance(value, datetime) and value.tzinfo is not None:
        return Const(value=(value.astimezone(UTC) - EPOCH) // _MICROSECOND, dtype="datetime")
    return None


def _constant_list(values: Sequence[Any]) -> Const | None:
    items = [constant(value) for value in values]
    known = [item for item in items if item is not None and not isinstance(item.value, tuple)]
    item_type = unify([item.dtype for item in known] or ["null"])
    if len(known) < len(items) or item_type is None or item_type in ("datetime", "duration"):
        return None
    plain = tuple(_widened(item, item_type) for item in known)
    return Const(value=plain, dtype=ListType(item=item_type))


def _widened(item: Const, dtype: DType) -> Any:
    return float(item.value) if isinstance(item.value, int) and dtype == "float64" else item.value


def constant_value(node: Const) -> Any:
    """The literal as a plain value; datetimes and durations as Python's own."""
    if isinstance(node.dtype, ListType) and isinstance(node.value, tuple):
        return [_plain(value, node.dtype.item) for value in node.value]
    return _plain(node.value, node.dtype)


def _plain(value: Any, dtype: DType) -> Any:
    if value is None or dtype not in ("datetime", "duration"):
        return value
    length = timedelta(microseconds=int(value))
    return EPOCH + length if dtype == "datetime" else length
