"""Plan expressions as plain functions, made once a plan."""

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
Evaluate = Callable[[dict[str, Any], datetime, Parts], Any]
Ask = Callable[[Sequence[dict[str, Any]], datetime, Sequence[Parts]], list[Any]]


def compiled(node: Expr, places: Mapping[Aggregate | Lookup, int]) -> Evaluate:
    """The expression as a function of a row, the moment, and values of aggregates and lookups.

    Args:
        node: The expression.
        places: Where each aggregate's and lookup's value stands.
    """
    if isinstance(node, Column):
        name = node.name
        return lambda row, _now, _parts: row[name]
    if isinstance(node, Now):
        return lambda _row, now, _parts: now
    if isinstance(node, Const):
        value = constant_value(node)
        return lambda _row, _now, _parts: value
    if isinstance(node, Call):
        return _call(node, [compiled(arg, places) for arg in node.args])
    # A function's answer is a whole feature: see ``asking``.
    assert isinstance(node, Aggregate | Lookup)
    place = places[node]
    return lambda _row, _now, parts: parts[place]


def asking(node: Resolved, places: Mapping[Aggregate | Lookup, int]) -> Ask:
    """A function's answers about rows that are asked about together.

    One call gives all outputs: they wait in the row under a name that no feature bears.
    """
    from sunloom.features.resolvers.resolve import resolve_rows

    resolver, output, held = node.resolver, node.output, f"@{node.resolver.fqn}"
    args = [compiled(given.value, places) for given in resolver.args]

    def ask(rows: Sequence[dict[str, Any]], now: datetime, parts: Sequence[Parts]) -> list[Any]:
        if rows and held not in rows[0]:
            pairs = list(zip(rows, parts, strict=True))
            given = [[arg(row, now, own) for arg in args] for row, own in pairs]
            for row, answer in zip(rows, resolve_rows(resolver, given, now), strict=True):
                row[held] = answer
        return [row[held][output] for row in rows]

    return ask


def _call(node: Call, args: Sequence[Evaluate]) -> Evaluate:
    if len(args) == 1:
        only = args[0]
        return lambda row, now, parts: evaluate_call(node, (only(row, now, parts),))
    if len(args) == 2:
        a, b = args
        return lambda row, now, parts: evaluate_call(node, (a(row, now, parts), b(row, now, parts)))
    return lambda row, now, parts: evaluate_call(node, [arg(row, now, parts) for arg in args])


def finishing(feature: FeaturePlan) -> Callable[[Any], Any]:
    """Gives a value the feature's type, its default where it is missing, and its strict limits."""
    default = None if feature.default is None else constant_value(feature.default)
    strict = [check for check in feature.validations if check.strict]
    is_float = feature.dtype == "float64"

    def finish(value: Any) -> Any:
        if value is None:
            value = default
        elif is_float and not isinstance(value, float):
            value = float(value)
        if strict and value is not None and not all(is_within(value, one) for one in strict):
            return None
        return value

    return finish


def stored_value(value: Any, dtype: DType) -> Any:
    """A value as tiles hold it, as the plain value it stands for."""
    if value is None or dtype not in ("datetime", "duration"):
        return value
    length = timedelta(microseconds=value)
    return EPOCH + length if dtype == "datetime" else length
