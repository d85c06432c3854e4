"""The one table of scalar functions: Chalk's name to types, frame lowering and scalar lowering.

Chalk normalises names and arguments when an expression is built (``F.unix_seconds`` becomes
``to_unixtime``, a position counted from 0 becomes one counted from 1); the names here are the
normalised ones. What each does with nulls, NaN and edges is what Chalk's own evaluator answered;
the golden values lie with the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sunloom.features.dtypes import DType
from sunloom.features.functions.logical import LOGICAL
from sunloom.features.functions.moments import MOMENTS
from sunloom.features.functions.numeric import NUMERIC
from sunloom.features.functions.signature import Function
from sunloom.features.functions.text import TEXT
from sunloom.features.plan import Call
from sunloom.features.types import POLARS

FUNCTIONS: Mapping[str, Function] = {**NUMERIC, **LOGICAL, **MOMENTS, **TEXT}
"""Every function but ``cast``, whose result type is an argument."""

CASTS: Mapping[DType, tuple[DType, ...]] = {
    "int64": ("int64", "float64", "bool", "string"),
    "float64": ("int64", "float64"),
    "bool": ("int64", "float64", "bool"),
    "string": ("string",),
    "datetime": ("datetime",),
    "duration": ("duration",),
    "null": tuple(POLARS),
}
"""Which types ``cast`` turns into which."""


def lower_call(call: Call, args: Sequence[pl.Expr]) -> pl.Expr:
    """The call as a Polars expression over its lowered arguments."""
    if call.function == "cast":
        return _cast(args[0], call.args[0].dtype, call.dtype)
    return FUNCTIONS[call.function].frame(args, call)


def evaluate_call(call: Call, args: Sequence[Any]) -> Any:
    """The call of plain values."""
    if call.function == "cast":
        return None if args[0] is None else _cast_value(args[0], call.dtype)
    value = FUNCTIONS[call.function].evaluate(*args)
    widened = call.dtype == "float64" and isinstance(value, int)
    return float(value) if widened else value


def _cast(value: pl.Expr, source: DType, target: DType) -> pl.Expr:
    if (source, target) == ("float64", "int64"):
        # Halves go away from zero; NaN and infinity have no whole number.
        whole = pl.when(value.is_finite()).then(value.round(mode="half_away_from_zero"))
        return whole.cast(pl.Int64, strict=False)
    return value.cast(POLARS[target])


def _cast_value(value: Any, target: DType) -> Any:
    if target == "int64" and isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(math.copysign(math.floor(abs(value) + 0.5), value))
    kinds: Mapping[str, type] = {"int64": int, "float64": float, "bool": bool, "string": str}
    kind = kinds.get(str(target))
    return kind(value) if kind is not None else value
