"""Functions of numbers: arithmetic, extremes and rounding, roots, logarithms and trigonometry."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from datetime import date
from functools import reduce
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.expressions.functions.casts import cast_value, lower_cast, round_half_away
from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    Lowering,
    TypeRule,
    is_nan,
    order_key,
    python_function,
    same_number,
    takes,
    takes_exactly,
    wider_number,
)
from sunloom.features.expressions.literals import unify
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS

_INT64_MIN = -(2**63)
_INT64_END = 2.0**63


def _number_or(other: Mapping[tuple[DType, ...], DType]) -> TypeRule:
    """Two numbers give the wider of their types; other pairs are as listed."""
    return lambda types: other.get(tuple(types)) or wider_number(types)


def _divide(a: float, b: float) -> float:
    # As in IEEE arithmetic, and so in Polars; Python raises.
    if b == 0:
        if a == 0 or math.isnan(a):
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    return float(a) / float(b)


def _lower_remainder(args: Columns, call: Call) -> pl.Expr:
    """The dividend's sign, as in C; null if a whole number is divided by zero."""
    a, b = (arg.cast(POLARS[call.dtype]) for arg in args)
    if call.dtype == "int64":
        # Polars' remainder has the divisor's sign; the least integer has no ``abs`` to take.
        floored = a % b
        return pl.when((floored != 0) & ((a < 0) != (b < 0))).then(floored - b).otherwise(floored)
    # Polars subtracts a rounded multiple of the divisor; only C's own fmod is exact.
    pair = pl.struct(a.alias("a"), b.alias("b"))
    remainders = pair.map_batches(_exact_remainders, return_dtype=pl.Float64)
    return pl.when(a.is_not_null() & b.is_not_null()).then(remainders)


def _exact_remainders(pairs: pl.Series) -> pl.Series:
    a, b = (pairs.struct.field(name).fill_null(math.nan).to_numpy() for name in ("a", "b"))
    with np.errstate(invalid="ignore"):
        return pl.Series(np.fmod(a, b))


def _remainder(a: float, b: float) -> float | None:
    if isinstance(a, int) and isinstance(b, int):
        if not b:
            return None
        remainder = abs(a) % abs(b)
        return -remainder if a < 0 else remainder
    return math.fmod(a, b) if b and not math.isinf(a) else math.nan


def _multiplication_wraps(a: pl.Expr, b: pl.Expr, result: pl.Expr) -> pl.Expr:
    product = a.cast(pl.Float64) * b.cast(pl.Float64)
    # Near the limit itself a float is too coarse; a product that wraps around there changes sign.
    changes_sign = (product.abs() > _INT64_END / 2) & ((product > 0) != (result > 0))
    return (product.abs() > 1.5 * _INT64_END) | changes_sign


def _null_on_overflow(
    function: Callable[[Any, Any], Any],
    wraps: Callable[[pl.Expr, pl.Expr, pl.Expr], pl.Expr],
) -> tuple[Lowering, Callable[[Any, Any], Any]]:
    """Both forms of the function; a whole number that does not fit in 64 bits is null.

    Polars' integers wrap around without an error. Python's do not: the scalar form compares.
    """

    def lower(args: Columns, call: Call) -> pl.Expr:
        # A date is its midnight: Polars would add whole days to it, and drop the hours.
        midnights = (
            lower_cast(column, "date", "datetime") if arg.dtype == "date" else column
            for column, arg in zip(args, call.args, strict=True)
        )
        result: pl.Expr = function(*midnights)
        if call.dtype != "int64":
            return result
        return pl.when(~wraps(args[0], args[1], result)).then(result)

    def scalar(a: Any, b: Any) -> Any:
        # To Python, a datetime is a date too.
        if isinstance(a, date) or isinstance(b, date):
            return function(_midnight_of(a), _midnight_of(b))
        result = function(a, b)
        fits = not isinstance(result, int) or _INT64_MIN <= result < 2**63
        return result if fits else None

    return lower, scalar


def _midnight_of(value: Any) -> Any:
    return cast_value(value, "date", "datetime") if type(value) is date else value


def _of_opposite(function: Callable[[Any], Any]) -> Function:
    # The least integer has no opposite of 64 bits.
    def lower(args: Columns, call: Call) -> pl.Expr:
        result: pl.Expr = function(args[0])
        return pl.when(args[0] != _INT64_MIN).then(result) if call.dtype == "int64" else result

    def scalar(value: Any) -> Any:
        # The float of the same value has an opposite.
        return None if isinstance(value, int) and value == _INT64_MIN else function(value)

    return Function("a number", same_number, lower, scalar)


def _lower_extreme(larger: bool, args: Columns, dtype: pl.DataType, *, skip_nulls: bool) -> pl.Expr:
    """The extreme of all values; Polars' ``max_horizontal`` skips nulls and NaN alike."""

    def choose(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        is_first = (a > b) if larger else (a < b)
        if not skip_nulls:
            known = a.is_not_null() & b.is_not_null()
            return pl.when(known & is_first).then(a).when(known).then(b)
        if dtype.is_float():
            # NaN wins on either side, whichever extreme is computed.
            is_first = (is_first | a.is_nan()) & ~(b.is_nan() & ~a.is_nan())
        return pl.when(b.is_null() | (a.is_not_null() & is_first)).then(a).otherwise(b)

    return reduce(choose, [arg.cast(dtype) for arg in args])


def _extreme(larger: bool, *, skip_nulls: bool) -> Function:
    """Null if one value is null, or, where nulls are skipped, NaN if one value is NaN."""
    choose: Callable[..., Any] = max if larger else min

    def scalar(*args: Any) -> Any:
        known = [arg for arg in args if arg is not None]
        if skip_nulls and any(map(is_nan, known)):
            return math.nan
        return choose(known, key=order_key) if known else None

    return Function(
        "values of one type",
        unify,
        lambda args, call: _lower_extreme(larger, args, POLARS[call.dtype], skip_nulls=skip_nulls),
        scalar,
        sees_nulls=skip_nulls,
    )


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except ValueError:
        # Zero to a negative power, or a negative number to a fractional one.
        return math.inf if a == 0 else math.nan
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf


def _lower_clamp(args: Columns, call: Call) -> pl.Expr:
    value, low, high = (arg.cast(POLARS[call.dtype]) for arg in args)
    raised = pl.when(value < low).then(low).otherwise(value)
    clamped = pl.when(raised > high).then(high).otherwise(raised)
    if call.dtype == "float64":
        # NaN is larger than every number, but stays NaN rather than become the upper limit.
        clamped = pl.when(value.is_nan()).then(value).otherwise(clamped)
    # Polars' clip ignores a limit that is null.
    known = value.is_not_null() & low.is_not_null() & high.is_not_null()
    return pl.when(known).then(clamped)


def _clamp(value: Any, low: Any, high: Any) -> Any:
    if is_nan(value):
        return value
    raised = low if order_key(value) < order_key(low) else value
    return high if order_key(raised) > order_key(high) else raised


_POWER = Function(
    "two numbers",
    takes(NUMBERS, 2, "float64"),
    lambda args, _: args[0].cast(pl.Float64) ** args[1].cast(pl.Float64),
    _power,
)

NUMERIC: Mapping[str, Function] = {
    "+": Function(
        "two numbers, two strings, or a date or datetime and a duration",
        _number_or(
            {
                ("datetime", "duration"): "datetime",
                ("duration", "datetime"): "datetime",
                ("duration", "duration"): "duration",
                ("date", "duration"): "datetime",
                ("duration", "date"): "datetime",
                ("string", "string"): "string",
            }
        ),
        *_null_on_overflow(
            operator.add,
            lambda a, b, total: ((a >= 0) == (b >= 0)) & ((total >= 0) != (a >= 0)),
        ),
    ),
    "-": Function(
        "two numbers, dates, datetimes or durations",
        _number_or(
            {
                ("datetime", "datetime"): "duration",
                ("datetime", "duration"): "datetime",
                ("duration", "duration"): "duration",
                ("date", "date"): "duration",
                ("date", "datetime"): "duration",
                ("datetime", "date"): "duration",
                ("date", "duration"): "datetime",
            }
        ),
        *_null_on_overflow(
            operator.sub,
            lambda a, b, difference: ((a >= 0) != (b >= 0)) & ((difference >= 0) != (a >= 0)),
        ),
    ),
    "*": Function(
        "two numbers", wider_number, *_null_on_overflow(operator.mul, _multiplication_wraps)
    ),
    "/": Function(
        "two numbers",
        takes(NUMBERS, 2, "float64"),
        lambda args, _: args[0].cast(pl.Float64) / args[1].cast(pl.Float64),
        _divide,
    ),
    "%": Function("two numbers", wider_number, _lower_remainder, _remainder),
    # Chalk writes it in two ways.
    "power": _POWER,
    "**": _POWER,
    "clamp": Function(
        "three numbers",
        lambda types: (
            unify(types) if len(types) == 3 and all(t in NUMBERS for t in types) else None
        ),
        _lower_clamp,
        _clamp,
    ),
    "negate": _of_opposite(operator.neg),
    "abs": _of_opposite(abs),
    "sign": Function(
        "a number",
        same_number,
        lambda args, _: args[0].sign(),
        lambda v: v if is_nan(v) else type(v)((v > 0) - (v < 0)),
    ),
    "greatest": _extreme(True, skip_nulls=False),
    "least": _extreme(False, skip_nulls=False),
    "scalar_max": _extreme(True, skip_nulls=True),
    "scalar_min": _extreme(False, skip_nulls=True),
}


def _math(frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[float], float]) -> Function:
    """A function of one number; outside its domain the result is NaN or infinite."""

    # Python's math raises where IEEE arithmetic, and so Polars, has a value.
    def with_ieee_result(value: float) -> float:
        try:
            return scalar(float(value))
        except ValueError:
            # A logarithm's pole is at 0; every other number outside a domain gives NaN.
            return -math.inf if value == 0 else math.nan
        except OverflowError:
            return math.inf

    return Function(
        "a number",
        takes(NUMBERS, 1, "float64"),
        lambda args, _: frame(args[0].cast(pl.Float64)),
        with_ieee_result,
    )


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    # Python's floor and ceil give ints, which NaN and infinity cannot be.
    return lambda value: float(function(value)) if math.isfinite(value) else value


def _round(args: Columns, _: Call) -> pl.Expr:
    value = args[0].cast(pl.Float64)
    if len(args) == 1:
        return value.round(mode="half_away_from_zero")
    # Polars takes a constant number of digits; here each row may have its own.
    scale = pl.lit(10.0).pow(args[1].cast(pl.Float64))
    return (value * scale).round(mode="half_away_from_zero") / scale


def _round_value(value: float, digits: int | None = None) -> float:
    if digits is None:
        return round_half_away(float(value))
    scale = 10.0**digits
    return round_half_away(float(value) * scale) / scale


def _constant(value: float) -> Function:
    return Function(
        "no arguments", takes((), 0, "float64"), lambda *_: pl.lit(value), lambda: value
    )


REAL_NUMBERS: Mapping[str, Function] = {
    "round": Function(
        "a number and perhaps digits",
        takes_exactly(
            *((number,) for number in NUMBERS),
            *((number, "int64") for number in NUMBERS),
            result="float64",
        ),
        _round,
        _round_value,
    ),
    "floor": _math(lambda x: x.floor(), _whole(math.floor)),
    "ceil": _math(lambda x: x.ceil(), _whole(math.ceil)),
    "sqrt": _math(lambda x: x.sqrt(), math.sqrt),
    "exp": _math(lambda x: x.exp(), math.exp),
    "ln": _math(lambda x: x.log(), math.log),
    "log10": _math(lambda x: x.log10(), math.log10),
    "sin": _math(lambda x: x.sin(), math.sin),
    "cos": _math(lambda x: x.cos(), math.cos),
    "asin": _math(lambda x: x.arcsin(), math.asin),
    "log2": _math(lambda x: x.log(2.0), math.log2),
    "cbrt": _math(lambda x: x.cbrt(), math.cbrt),
    "acos": _math(lambda x: x.arccos(), math.acos),
    "atan": _math(lambda x: x.arctan(), math.atan),
    "atan2": python_function("two numbers", takes(NUMBERS, 2, "float64"), math.atan2),
    "cosh": _math(lambda x: x.cosh(), math.cosh),
    "tanh": _math(lambda x: x.tanh(), math.tanh),
    "radians": _math(lambda x: x.radians(), math.radians),
    "degrees": _math(lambda x: x.degrees(), math.degrees),
    "pi": _constant(math.pi),
    "e": _constant(math.e),
}
