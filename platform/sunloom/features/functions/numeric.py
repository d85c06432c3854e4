"""Arithmetic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import polars as pl

from sunloom.features.dtypes import DType
from sunloom.features.functions.signature import (
    Frames,
    Function,
    Types,
    common,
    is_nan,
    order_key,
    promoted,
    same_number,
    takes,
)
from sunloom.features.plan import Call
from sunloom.features.types import NUMBERS, POLARS


def _added(types: Types) -> DType | None:
    pair = tuple(types)
    special: dict[tuple[DType, ...], DType] = {
        ("datetime", "duration"): "datetime",
        ("duration", "datetime"): "datetime",
        ("duration", "duration"): "duration",
        ("string", "string"): "string",
    }
    return special.get(pair) or promoted(types)


def _subtracted(types: Types) -> DType | None:
    special: dict[tuple[DType, ...], DType] = {
        ("datetime", "datetime"): "duration",
        ("datetime", "duration"): "datetime",
        ("duration", "duration"): "duration",
    }
    return special.get(tuple(types)) or promoted(types)


def _floats(args: Frames) -> list[pl.Expr]:
    return [arg.cast(pl.Float64) for arg in args]


def _divided(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return float(a) / float(b)


def _remainder(args: Frames, call: Call) -> pl.Expr:
    """The dividend's sign, as in C; nothing where a whole number is divided by zero."""
    a, b = (arg.cast(POLARS[call.dtype]) for arg in args)
    return (a.sign() * (a.abs() % b.abs())).cast(POLARS[call.dtype])


def _remainder_of(a: float, b: float) -> float | None:
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(abs(a) % abs(b), a)) if b else None
    return math.fmod(a, b) if b else math.nan


def _pick(larger: bool, args: Frames, dtype: pl.DataType) -> pl.Expr:
    """The extreme of two or more; null where one is null. NaN is the largest."""

    def choose(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        left = (a > b) if larger else (a < b)
        known = a.is_not_null() & b.is_not_null()
        return pl.when(known & left).then(a).when(known).then(b).otherwise(None)

    return reduce(choose, [arg.cast(dtype) for arg in args])


def _pick_known(larger: bool, args: Frames, dtype: pl.DataType) -> pl.Expr:
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
        common,
        lambda args, call: lowering(larger, args, POLARS[call.dtype]),
        of_values,
        sees_nulls=skip_nulls,
    )


def _math(frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[float], float]) -> Function:
    def guarded(value: float) -> float:
        try:
            return scalar(float(value))
        except ValueError:
            return -math.inf if value == 0 else math.nan
        except OverflowError:
            return math.inf

    return Function(
        "a number",
        takes(NUMBERS, 1, "float64"),
        lambda args, _: frame(args[0].cast(pl.Float64)),
        guarded,
    )


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: float(function(value)) if math.isfinite(value) else value


def _half_up(value: float) -> float:
    rounded = math.copysign(math.floor(abs(value) + 0.5), value)
    return rounded if math.isfinite(value) else value


def _sign(value: float) -> float:
    return value if value != value else type(value)((value > 0) - (value < 0))


NUMERIC: Mapping[str, Function] = {
    "+": Function(
        "two numbers, two strings, or a datetime and a duration",
        _added,
        lambda args, _: args[0] + args[1],
        operator.add,
    ),
    "-": Function(
        "two numbers, datetimes or durations",
        _subtracted,
        lambda args, _: args[0] - args[1],
        operator.sub,
    ),
    "*": Function("two numbers", promoted, lambda args, _: args[0] * args[1], operator.mul),
    "/": Function(
        "two numbers",
        takes(NUMBERS, 2, "float64"),
        lambda args, _: operator.truediv(*_floats(args)),
        _divided,
    ),
    "%": Function("two numbers", promoted, _remainder, _remainder_of),
    "power": Function(
        "two numbers",
        takes(NUMBERS, 2, "float64"),
        lambda args, _: operator.pow(*_floats(args)),
        lambda a, b: float(a) ** float(b),
    ),
    "negate": Function("a number", same_number, lambda args, _: -args[0], operator.neg),
    "abs": Function("a number", same_number, lambda args, _: args[0].abs(), abs),
    "sign": Function("a number", same_number, lambda args, _: args[0].sign(), _sign),
    # Halves go away from zero.
    "round": _math(lambda x: x.round(mode="half_away_from_zero"), _half_up),
    "floor": _math(lambda x: x.floor(), _whole(math.floor)),
    "ceil": _math(lambda x: x.ceil(), _whole(math.ceil)),
    "sqrt": _math(lambda x: x.sqrt(), math.sqrt),
    "exp": _math(lambda x: x.exp(), math.exp),
    "ln": _math(lambda x: x.log(), math.log),
    "log10": _math(lambda x: x.log10(), math.log10),
    "sin": _math(lambda x: x.sin(), math.sin),
    "cos": _math(lambda x: x.cos(), math.cos),
    "asin": _math(lambda x: x.arcsin(), math.asin),
    "greatest": _extreme(True, skip_nulls=False),
    "least": _extreme(False, skip_nulls=False),
    "scalar_max": _extreme(True, skip_nulls=True),
    "scalar_min": _extreme(False, skip_nulls=True),
}
NUMERIC = {**NUMERIC, "**": NUMERIC["power"]}
