"""Casts: which types become which, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.datetimes import iso_milliseconds
from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.polars_dtypes import POLARS

CASTS: Mapping[DType, tuple[DType, ...]] = {
    "int64": ("int64", "float64", "bool", "string"),
    "float64": ("int64", "float64", "bool"),
    "bool": ("int64", "float64", "bool", "string"),
    "string": ("string", "int64", "float64", "bool", "date"),
    "datetime": ("datetime", "date", "string"),
    "date": ("date", "datetime", "string"),
    "duration": ("duration",),
    "bytes": ("bytes",),
    "null": tuple(POLARS),
}
"""Scalar type to the types it can be cast to; text that is no such value becomes null."""

_WHOLE = r"^[+-]?\d+$"
_REAL = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_INT64 = range(-(2**63), 2**63)
# Not all that Python's strip() removes: no-break spaces, for one, belong to the text.
_BLANKS = " \t\n\r"
_NAMED_FLOATS = {
    "Infinity": math.inf,
    "+Infinity": math.inf,
    "-Infinity": -math.inf,
    "NaN": math.nan,
}


def can_cast(source: DType, target: DType) -> bool:
    """Whether the one can be cast to the other; lists are cast value by value."""
    if source == target:
        return True
    if isinstance(source, ListType) and isinstance(target, ListType):
        numbers = (source.item, target.item) == ("int64", "float64")
        return numbers or source.item == "null"
    return target in CASTS.get(source, ())


def lower_cast(value: pl.Expr, source: DType, target: DType) -> pl.Expr:
    """The cast as a Polars expression."""
    # Where Polars means something else than Chalk, and where strict casts would raise.
    lowering = _LOWERINGS.get((source, target))
    return value.cast(POLARS[target]) if lowering is None else lowering(value)


def cast_value(value: Any, source: DType, target: DType) -> Any:
    """The cast of a plain value that is not null."""
    if isinstance(target, ListType):
        return [None if v is None else cast_value(v, source, target.item) for v in value]
    if target == "int64":
        return text_to_int(value) if isinstance(value, str) else round_to_int(value)
    if target == "float64":
        return text_to_float(value) if isinstance(value, str) else float(value)
    if target == "bool":
        is_text = isinstance(value, str)
        return _BOOLS.get(value.strip(_BLANKS).lower()) if is_text else bool(value)
    if target == "date":
        return text_to_date(value) if isinstance(value, str) else _day_of(value)
    if target == "datetime" and source == "date":
        return datetime.combine(value, time(), UTC)
    if target != "string":
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return iso_milliseconds(value, " ") if isinstance(value, datetime) else str(value)


def round_to_int(value: float) -> int | None:
    """The nearest whole number, halves away from zero; None if there is none of 64 bits."""
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        return None
    # A whole number first: whether anything else lies in a range is found by walking it.
    rounded = int(round_half_away(value))
    return rounded if rounded in _INT64 else None


def round_half_away(value: float) -> float:
    """The nearest whole number; Python's own ``round`` takes halves to the even neighbour."""
    if not math.isfinite(value):
        return value
    # Not floor(size + 0.5): just below a half that sum rounds up.
    size = abs(value)
    whole = math.floor(size)
    return math.copysign(whole + (size - whole >= 0.5), value)


def text_to_int(text: str) -> int | None:
    """Digits with an optional sign, else None."""
    stripped = text.strip(_BLANKS)
    # Python's own int() also takes underscores and digits of other scripts.
    if re.fullmatch(_WHOLE[1:-1], stripped, re.ASCII) is None:
        return None
    number = int(stripped)
    return number if number in _INT64 else None


def text_to_float(text: str) -> float | None:
    """A decimal number, ``Infinity`` or ``NaN``, else None."""
    stripped = text.strip(_BLANKS)
    if re.fullmatch(_REAL[1:-1], stripped, re.ASCII):
        return float(stripped)
    return _NAMED_FLOATS.get(stripped)


def text_to_date(text: str) -> date | None:
    """A date as ``YYYY-MM-DD``, else None."""
    stripped = text.strip(_BLANKS)
    # Python's own parser also takes weeks and dates without hyphens.
    if re.fullmatch(_DATE[1:-1], stripped, re.ASCII) is None:
        return None
    try:
        return date.fromisoformat(stripped)
    except ValueError:
        return None


def _day_of(value: date) -> date:
    return value.date() if isinstance(value, datetime) else value


def _text_to_date_frame(value: pl.Expr) -> pl.Expr:
    text = value.str.strip_chars(_BLANKS)
    shaped = pl.when(text.str.contains(_DATE.replace("\\d", "[0-9]"))).then(text)
    return shaped.str.to_date("%Y-%m-%d", strict=False)


def _text_to_int_frame(value: pl.Expr) -> pl.Expr:
    text = value.str.strip_chars(_BLANKS)
    # In Polars' regular expressions `\d` includes the digits of all scripts.
    digits = pl.when(text.str.contains(_WHOLE.replace("\\d", "[0-9]"))).then(text)
    return digits.str.strip_prefix("+").cast(pl.Int64, strict=False)


def _text_to_float_frame(value: pl.Expr) -> pl.Expr:
    text = value.str.strip_chars(_BLANKS)
    number = pl.when(text.str.contains(_REAL.replace("\\d", "[0-9]"))).then(text)
    parsed = number.str.strip_prefix("+").cast(pl.Float64, strict=False)
    named = text.replace_strict(_NAMED_FLOATS, default=None, return_dtype=pl.Float64)
    return pl.coalesce(parsed, named)


_LOWERINGS: Mapping[tuple[DType, DType], Callable[[pl.Expr], pl.Expr]] = {
    ("float64", "int64"): lambda value: (
        pl.when(value.is_finite())
        .then(value.round(mode="half_away_from_zero"))
        .cast(pl.Int64, strict=False)
    ),
    ("float64", "bool"): lambda value: value != 0.0,
    ("string", "int64"): _text_to_int_frame,
    ("string", "float64"): _text_to_float_frame,
    ("string", "bool"): lambda value: (
        value.str.strip_chars(_BLANKS)
        .str.to_lowercase()
        .replace_strict(_BOOLS, default=None, return_dtype=pl.Boolean)
    ),
    ("bool", "string"): lambda value: (
        pl.when(value).then(pl.lit("true")).when(~value).then(pl.lit("false"))
    ),
    ("string", "date"): _text_to_date_frame,
    ("datetime", "date"): lambda value: value.dt.date(),
    ("date", "datetime"): lambda value: value.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
    ("date", "string"): lambda value: value.dt.strftime("%Y-%m-%d"),
    ("datetime", "string"): lambda value: value.dt.strftime("%Y-%m-%d %H:%M:%S%.3f"),
}
