"""Functions of real numbers: roots, logarithms, trigonometry, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    Types,
    python_function,
    takes,
)
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call
from sunloom.features.plan.polars_dtypes import NUMBERS


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


def _round_half_away(value: float) -> float:
    """Halves go away from zero; Python's own ``round`` takes the even neighbour."""
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
    # Polars takes a constant number of digits; here each row may have its own.
    scale = pl.lit(10.0).pow(args[1].cast(pl.Float64))
    return (value * scale).round(mode="half_away_from_zero") / scale


def _round_value(value: float, digits: int | None = None) -> float:
    if digits is None:
        return _round_half_away(float(value))
    scale = 10.0**digits
    return _round_half_away(float(value) * scale) / scale


def _constant(value: float) -> Function:
    return Function(
        "no arguments", takes((), 0, "float64"), lambda *_: pl.lit(value), lambda: value
    )


REAL_NUMBERS: Mapping[str, Function] = {
    "round": Function("a number and perhaps digits", _number_and_digits, _round, _round_value),
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
