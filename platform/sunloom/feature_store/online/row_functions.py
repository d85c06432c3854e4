"""Plan expressions compiled to plain functions of one row, for online reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sunloom.features.expressions.functions.table import evaluate_call
from sunloom.features.expressions.literals import constant_value
from sunloom.features.expressions.validations import is_within
from sunloom.features.plan.dtypes import DType
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
from sunloom.features.plan.feature_sets import FeaturePlan
from sunloom.features.plan.polars_dtypes import EPOCH

Parts = Sequence[Any]
"""A row's values of aggregates and lookups."""
RowFunction = Callable[[dict[str, Any], datetime, Parts], Any]
BatchFunction = Callable[[Sequence[dict[str, Any]], datetime, Sequence[Parts]], list[Any]]


def compile_expression(node: Expr, places: Mapping[Aggregate | Lookup, int]) -> RowFunction:
    """The expression as a function of a row, the as-of time, and the row's parts.

    Args:
        node: The expression.
        places: Position of each aggregate's and lookup's value among the parts.
    """
    # Closures, so that the tree is walked once per plan instead of once per row.
    if isinstance(node, Column):
        name = node.name
        return lambda row, _now, _parts: row[name]
    if isinstance(node, Now):
        return lambda _row, now, _parts: now
    if isinstance(node, Const):
        value = constant_value(node)
        return lambda _row, _now, _parts: value
    if isinstance(node, Call):
        return _compile_call(node, [compile_expression(arg, places) for arg in node.args])
    # The result of a resolver is always a whole feature: see ``compile_resolver``.
    assert isinstance(node, Aggregate | Lookup)
    place = places[node]
    return lambda _row, _now, parts: parts[place]


def compile_resolver(node: Resolved, places: Mapping[Aggregate | Lookup, int]) -> BatchFunction:
    """A resolver's output as a function of all rows of a read.

    One call gives all outputs of the resolver; they are kept in the row under a name that no
    feature can have.
    """
    # Imports chalkpy and the user's code, which only plans with resolvers need.
    from sunloom.features.resolvers.resolve import resolve_rows

    resolver, output, result_key = node.resolver, node.output, f"@{node.resolver.fqn}"
    args = [compile_expression(given.value, places) for given in resolver.args]

    def evaluate(
        rows: Sequence[dict[str, Any]], now: datetime, parts: Sequence[Parts]
    ) -> list[Any]:
        # The rows of a batch are filled together: the first one shows whether all are.
        if rows and result_key not in rows[0]:
            values = [
                [arg(row, now, row_parts) for arg in args]
                for row, row_parts in zip(rows, parts, strict=True)
            ]
            for row, result in zip(rows, resolve_rows(resolver, values, now), strict=True):
                row[result_key] = result
        return [row[result_key][output] for row in rows]

    return evaluate


def _compile_call(node: Call, args: Sequence[RowFunction]) -> RowFunction:
    # Most calls have one or two arguments; spelled out they save a list per row.
    if len(args) == 1:
        only = args[0]
        return lambda row, now, parts: evaluate_call(node, (only(row, now, parts),))
    if len(args) == 2:
        a, b = args
        return lambda row, now, parts: evaluate_call(node, (a(row, now, parts), b(row, now, parts)))
    return lambda row, now, parts: evaluate_call(node, [arg(row, now, parts) for arg in args])


def feature_finalizer(feature: FeaturePlan) -> Callable[[Any], Any]:
    """Gives a value the feature's type, its default where it is missing, and its strict limits."""
    default = None if feature.default is None else constant_value(feature.default)
    strict = [check for check in feature.validations if check.strict]
    is_float = feature.dtype == "float64"

    def finalize(value: Any) -> Any:
        # In the engine's order: the default, then the limits, which may replace it by null.
        if value is None:
            value = default
        elif is_float and not isinstance(value, float):
            value = float(value)
        if strict and value is not None and not all(is_within(value, check) for check in strict):
            return None
        return value

    return finalize


def python_value(stored: Any, dtype: DType) -> Any:
    """The Python value of one in a tile, where datetimes and durations are microseconds."""
    if stored is None or dtype not in ("datetime", "duration"):
        return stored
    length = timedelta(microseconds=stored)
    return EPOCH + length if dtype == "datetime" else length
