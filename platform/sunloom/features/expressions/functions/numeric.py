"""Arithmetic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    Types,
    common_type,
    is_nan,
    order_key,
    same_number,
    takes,
    wider_number,
)
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, unify

_LEAST = -(2**63)
_INT64_END = 2.0**63


def _added(types: Types) -> DType | None:
    pair = tuple(types)
    special: dict[tuple[DType, ...], DType] = {
        ("datetime", "duration"): "datetime",
        ("duration", "datetime"): "datetime",
        ("duration", "duration"): "duration",
        ("string", "string"): "string",
    }
    return special.get(pair) or wider_number(types)


def _subtracted(types: Types) -> DType | None:
    special: dict[tuple[DType, ...], DType] = {
        ("datetime", "datetime"): "duration",
        ("datetime", "duration"): "datetime",
        ("duration", "duration"): "duration",
    }
    return special.get(tuple(types)) or wider_number(types)


def _floats(args: Columns) -> list[pl.Expr]:
    return [arg.cast(pl.Float64) for arg in args]


def _divided(a: float, b: float) -> float:
    if b == 0:
        if a == 0 or math.isnan(a):
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    return float(a) / float(b)


def _remainder(args: Columns, call: Call) -> pl.Expr:
    """The dividend's sign, as in C; nothing where a whole number is divided by zero."""
    a, b = (arg.cast(POLARS[call.dtype]) for arg in args)
    if call.dtype == "int64":
        return (a.sign() * (a.abs() % b.abs())).cast(pl.Int64)
    # Polars subtracts a rounded multiple; only C's own function is exact.
    pair = pl.struct(a.alias("a"), b.alias("b"))
    found = pair.map_batches(_exact_remainders, return_dtype=pl.Float64)
    return pl.when(a.is_not_null() & b.is_not_null()).then(found)


def _exact_remainders(pairs: pl.Series) -> pl.Series:
    a, b = (pairs.struct.field(name).fill_null(math.nan).to_numpy() for name in ("a", "b"))
    with np.errstate(invalid="ignore"):
        return pl.Series(np.fmod(a, b))


def _remainder_of(a: float, b: float) -> float | None:
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(abs(a) % abs(b), a)) if b else None
    return math.fmod(a, b) if b and not math.isinf(a) else math.nan


def _added_wraps(a: pl.Expr, b: pl.Expr, found: pl.Expr) -> pl.Expr:
    return ((a >= 0) == (b >= 0)) & ((found >= 0) != (a >= 0))


def _subtracted_wraps(a: pl.Expr, b: pl.Expr, found: pl.Expr) -> pl.Expr:
    return ((a >= 0) != (b >= 0)) & ((found >= 0) != (a >= 0))


def _multiplied_wraps(a: pl.Expr, b: pl.Expr, found: pl.Expr) -> pl.Expr:
    about = a.cast(pl.Float64) * b.cast(pl.Float64)
    # Near the end itself a float cannot tell; what wraps around there changes its sign.
    turned = (about.abs() > _INT64_END / 2) & ((about > 0) != (found > 0))
    return (about.abs() > 1.5 * _INT64_END) | turned


def _whole_or_null(
    function: Callable[[Any, Any], Any],
    wraps: Callable[[pl.Expr, pl.Expr, pl.Expr], pl.Expr],
) -> tuple[Callable[[Columns, Call], pl.Expr], Callable[[Any, Any], Any]]:
    """Both lowerings; a whole number that does not fit in 64 bits is null."""

    def frame(args: Columns, call: Call) -> pl.Expr:
        found: pl.Expr = function(args[0], args[1])
        if call.dtype != "int64":
            return found
        return pl.when(~wraps(args[0], args[1], found)).then(found)

    def scalar(a: Any, b: Any) -> Any:
        found = function(a, b)
        fits = not isinstance(found, int) or -(2**63) <= found < 2**63
        return found if fits else None

    return frame, scalar


def _size(args: Columns, call: Call) -> pl.Expr:
    size = args[0].abs()
    return pl.when(size >= 0).then(size) if call.dtype == "int64" else size


def _opposite(args: Columns, call: Call) -> pl.Expr:
    if call.dtype != "int64":
        return -args[0]
    return pl.when(args[0] != _LEAST).then(-args[0])


def _pick(larger: bool, args: Columns, dtype: pl.DataType) -> pl.Expr:
    """The extreme of two or more; null where one is null. NaN is the largest."""

    def choose(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        left = (a > b) if larger else (a < b)
        known = a.is_not_null() & b.is_not_null()
        return pl.when(known & left).then(a).when(known).then(b).otherwise(None)

    return reduce(choose, [arg.cast(dtype) for arg in args])


def _pick_known(larger: bool, args: Columns, dtype: pl.DataType) -> pl.Expr:
    """The extreme of those that are not null; NaN where one is NaN."""

    def choose(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        left = (a > b) if larger else (a < b)
        if dtype.is_float():
            left = left | a.is_nan()
            left = left & ~(b.is_nan() & ~a.is_nan())
        return pl.when(b.is_null() | (a.is_not_null() & left)).then(a).otherwise(b)

    return reduce(choose, [arg.cast(dtype) for arg in args])


def _extreme(larger: bool, *, skip_nulls: bool) -> Function:
    choose: Callable[..., Any] = max if larger else min
    lowering = _pick_known if skip_nulls else _pick

    def of_values(*args: Any) -> Any:
        known = [arg for arg in args if arg is not None]
        if skip_nulls and any(map(is_nan, known)):
            return math.nan
        return choose(known, key=order_key) if known else None

    return Function(
        "values of one type",
        common_type,
        lambda args, call: lowering(larger, args, POLARS[call.dtype]),
        of_values,
        sees_nulls=skip_nulls,
    )


def _sign(value: float) -> float:
    return value if value != value else type(value)((value > 0) - (value < 0))


def _raised(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except ValueError:
        # A zero to a negative power, or a negative number to a broken one.
        return math.inf if a == 0 else math.nan
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf


def _clamped(types: Types) -> DType | None:
    fits = len(types) == 3 and all(t in NUMBERS for t in types)
    return unify(types) if fits else None


def _clamp(args: Columns, call: Call) -> pl.Expr:
    value, low, high = (arg.cast(POLARS[call.dtype]) for arg in args)
    raised = pl.when(value < low).then(low).otherwise(value)
    lowered = pl.when(raised > high).then(high).otherwise(raised)
    known = value.is_not_null() & low.is_not_null() & high.is_not_null()
    return pl.when(known & _is_nan(value, call)).then(value).when(known).then(lowered)


def _is_nan(value: pl.Expr, call: Call) -> pl.Expr:
    return value.is_nan() if call.dtype == "float64" else pl.lit(False)


def _clamp_value(value: Any, low: Any, high: Any) -> Any:
    if is_nan(value):
        return value
    raised = low if order_key(value) < order_key(low) else value
    return high if order_key(raised) > order_key(high) else raised


_POWER = Function(
    "two numbers",
    takes(NUMBERS, 2, "float64"),
    lambda args, _: operator.pow(*_floats(args)),
    _raised,
)

NUMERIC: Mapping[str, Function] = {
    "+": Function(
        "two numbers, two strings, or a datetime and a duration",
        _added,
        *_whole_or_null(operator.add, _added_wraps),
    ),
    "-": Function(
        "two numbers, datetimes or durations",
        _subtracted,
        *_whole_or_null(operator.sub, _subtracted_wraps),
    ),
    "*": Function("two numbers", wider_number, *_whole_or_null(operator.mul, _multiplied_wraps)),
    "/": Function(
        "two numbers",
        takes(NUMBERS, 2, "float64"),
        lambda args, _: operator.truediv(*_floats(args)),
        _divided,
    ),
    "%": Function("two numbers", wider_number, _remainder, _remainder_of),
    "power": _POWER,
    "**": _POWER,
    "clamp": Function("three numbers", _clamped, _clamp, _clamp_value),
    "negate": Function("a number", same_number, _opposite, lambda v: None if v == _LEAST else -v),
    "abs": Function("a number", same_number, _size, lambda v: None if v == _LEAST else abs(v)),
    "sign": Function("a number", same_number, lambda args, _: args[0].sign(), _sign),
    "greatest": _extreme(True, skip_nulls=False),
    "least": _extreme(False, skip_nulls=False),
    "scalar_max": _extreme(True, skip_nulls=True),
    "scalar_min": _extreme(False, skip_nulls=True),
}
