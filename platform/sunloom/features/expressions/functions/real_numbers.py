"""Functions of real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    Types,
    map_scalar,
    takes,
)
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS


def _math(frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[float], float]) -> Function:
    """A function of one number; outside its domain the result is NaN or infinite."""

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
    if not math.isfinite(value):
        return value
    size = abs(value)
    whole = math.floor(size)
    return math.copysign(whole + (size - whole >= 0.5), value)


def _number_and_digits(types: Types) -> DType | None:
    number = len(types) in (1, 2) and types[0] in NUMBERS
    return "float64" if number and all(t == "int64" for t in types[1:]) else None


def _round(args: Columns, _: Call) -> pl.Expr:
    value = args[0].cast(pl.Float64)
    if len(args) == 1:
        return value.round(mode="half_away_from_zero")
    scale = pl.lit(10.0).pow(args[1].cast(pl.Float64))
    return (value * scale).round(mode="half_away_from_zero") / scale


def _rounded(value: float, digits: int | None = None) -> float:
    if digits is None:
        return _half_up(float(value))
    scale = 10.0**digits
    scaled = float(value) * scale
    return _half_up(scaled) / scale


def _constant(value: float) -> Function:
    return Function(
        "no arguments", takes((), 0, "float64"), lambda *_: pl.lit(value), lambda: value
    )


def _pair(scalar: Callable[[float, float], float]) -> Function:
    return Function("two numbers", takes(NUMBERS, 2, "float64"), map_scalar(scalar), scalar)


REAL_NUMBERS: Mapping[str, Function] = {
    # Halves go away from zero.
    "round": Function("a number and perhaps digits", _number_and_digits, _round, _rounded),
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
    "atan2": _pair(math.atan2),
    "cosh": _math(lambda x: x.cosh(), math.cosh),
    "tanh": _math(lambda x: x.tanh(), math.tanh),
    "radians": _math(lambda x: x.radians(), math.radians),
    "degrees": _math(lambda x: x.degrees(), math.degrees),
    "pi": _constant(math.pi),
    "e": _constant(math.e),
}
