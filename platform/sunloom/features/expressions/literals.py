"""Plan expressions on plain Python values: one row at a time, for reads that derive on demand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sunloom.features.expressions.functions.table import evaluate_call
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.expressions import (
    Aggregate,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Resolved,
)
from sunloom.features.plan.polars_dtypes import EPOCH


def evaluate(
    node: Expr,
    row: Mapping[str, Any],
    now: datetime,
    parts: Mapping[Aggregate | Lookup, Any] | None = None,
) -> Any:
    """The expression's value.

    Args:
        node: The expression.
        row: Feature name to value, None for null.
        now: The moment, UTC.
        parts: Values of aggregates and lookups, which a row alone does not hold.
    """
    if isinstance(node, Column):
        return row[node.name]
    if isinstance(node, Now):
        return now
    if isinstance(node, Const):
        return constant_value(node)
    if isinstance(node, Call):
        return evaluate_call(node, [evaluate(arg, row, now, parts) for arg in node.args])
    if isinstance(node, Resolved):
        return _resolved(node, row, now, parts)
    return (parts or {})[node]


def _resolved(
    node: Resolved,
    row: Mapping[str, Any],
    now: datetime,
    parts: Mapping[Aggregate | Lookup, Any] | None,
) -> Any:
    from sunloom.features.resolvers.resolve import resolve_rows

    values = [evaluate(given.value, row, now, parts) for given in node.resolver.args]
    return resolve_rows(node.resolver, [values], now)[0][node.output]


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
