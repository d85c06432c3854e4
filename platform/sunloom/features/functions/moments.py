"""Datetimes (UTC) and durations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from sunloom.features.functions.signature import Frames, Function, takes
from sunloom.features.plan import Call
from sunloom.features.types import EPOCH, NUMBERS

_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)


def _part(frame: Callable[[Any], pl.Expr], scalar: Callable[[datetime], int]) -> Function:
    return Function(
        "a datetime",
        takes(("datetime",), 1, "int64"),
        lambda args, _: frame(args[0].dt).cast(pl.Int64),
        scalar,
    )


def _from_unix(args: Frames, _: Call) -> pl.Expr:
    microseconds = (args[0].cast(pl.Float64) * 1_000_000).round(mode="half_to_even")
    # NaN and infinity are no moment; Chalk's evaluator makes 1970 of them.
    return microseconds.cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))


def _from_unix_value(value: float) -> datetime | None:
    if not math.isfinite(value):
        return None
    return EPOCH + timedelta(microseconds=round(value * 1_000_000))


MOMENTS: Mapping[str, Function] = {
    # Whole seconds, cut toward zero, as a float.
    "total_seconds": Function(
        "a duration",
        takes(("duration",), 1, "float64"),
        lambda args, _: args[0].dt.total_seconds().cast(pl.Float64),
        lambda value: float(math.trunc(value / _SECOND)),
    ),
    "to_unixtime": Function(
        "a datetime",
        takes(("datetime",), 1, "float64"),
        lambda args, _: args[0].dt.epoch("us") / 1_000_000,
        lambda value: (value - EPOCH) / _MICROSECOND / 1_000_000,
    ),
    "from_unixtime": Function(
        "a number",
        takes(NUMBERS, 1, "datetime"),
        _from_unix,
        _from_unix_value,
    ),
    "year": _part(lambda dt: dt.year(), lambda v: v.year),
    "quarter": _part(lambda dt: dt.quarter(), lambda v: (v.month + 2) // 3),
    "month": _part(lambda dt: dt.month(), lambda v: v.month),
    "day_of_month": _part(lambda dt: dt.day(), lambda v: v.day),
    "day_of_year": _part(lambda dt: dt.ordinal_day(), lambda v: v.timetuple().tm_yday),
    # ISO: Monday is 1.
    "day_of_week": _part(lambda dt: dt.weekday(), lambda v: v.isoweekday()),
    "week_of_year": _part(lambda dt: dt.week(), lambda v: v.isocalendar().week),
    "hour": _part(lambda dt: dt.hour(), lambda v: v.hour),
}
