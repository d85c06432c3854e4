"""Plan expressions on plain Python values: one row at a time, for reads that derive on demand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sunloom.features.functions import evaluate_call
from sunloom.features.plan import Aggregate, Call, Column, Const, Expr, Lookup, Now
from sunloom.features.types import EPOCH


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
    return (parts or {})[node]


def constant_value(node: Const) -> Any:
    """The literal as a plain value; datetimes and durations as Python's own."""
    if node.value is None or node.dtype not in ("datetime", "duration"):
        return node.value
    length = timedelta(microseconds=int(node.value))
    return EPOCH + length if node.dtype == "datetime" else length
