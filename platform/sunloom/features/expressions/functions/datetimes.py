"""Functions of datetimes (UTC) and durations."""

from __future__ import annotations

import math
from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Columns,
    Function,
    literal,
    takes,
    takes_exactly,
)
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import EPOCH, NUMBERS, epoch_us

_SECOND = timedelta(seconds=1)
# Python's datetime begins with the year 1, 62 billion seconds before 1970: both forms give null
# beyond that distance, on either side.
_MAX_MS = 62_000_000_000_000


def _day_part(frame: Callable[[Any], pl.Expr], scalar: Callable[[date], int]) -> Function:
    return Function(
        "a date or a datetime",
        takes(("date", "datetime"), 1, "int64"),
        lambda args, _: frame(args[0].dt).cast(pl.Int64),
        scalar,
    )


def _from_unix(args: Columns, _: Call) -> pl.Expr:
    # Whole milliseconds, halves up. NaN and infinity give null here; Chalk makes 1970 of them.
    milliseconds = (args[0].cast(pl.Float64) * 1_000 + 0.5).floor().cast(pl.Int64, strict=False)
    in_range = milliseconds.abs() <= _MAX_MS
    return pl.when(in_range).then(milliseconds * 1_000).cast(pl.Datetime("us", "UTC"))


def _from_unix_value(value: float) -> datetime | None:
    if not math.isfinite(value):
        return None
    milliseconds = math.floor(value * 1_000 + 0.5)
    if abs(milliseconds) > _MAX_MS:
        return None
    return EPOCH + timedelta(milliseconds=milliseconds)


class _Unit(NamedTuple):
    """A unit of time: its name in Polars, and the function that truncates a datetime to it."""

    polars: str
    truncate: Callable[[datetime], datetime]


_UNITS: Mapping[str, _Unit] = {
    "second": _Unit("1s", lambda v: v.replace(microsecond=0)),
    "minute": _Unit("1m", lambda v: v.replace(second=0, microsecond=0)),
    "hour": _Unit("1h", lambda v: v.replace(minute=0, second=0, microsecond=0)),
    "day": _Unit("1d", lambda v: _midnight(v)),
    "week": _Unit("1w", lambda v: _midnight(v) - timedelta(days=v.weekday())),
    "month": _Unit("1mo", lambda v: _midnight(v).replace(day=1)),
    "quarter": _Unit("1q", lambda v: _midnight(v).replace(month=(v.month - 1) // 3 * 3 + 1, day=1)),
    "year": _Unit("1y", lambda v: _midnight(v).replace(month=1, day=1)),
}


def _midnight(value: datetime) -> datetime:
    return value.replace(hour=0, minute=0, second=0, microsecond=0)


def _check_unit(args: Sequence[Expr]) -> str | None:
    unit = args[0]
    if isinstance(unit, Const) and unit.value in _UNITS:
        return None
    return f"Truncate to one of {', '.join(_UNITS)}."


def iso_milliseconds(value: datetime, separator: str) -> str:
    """The datetime as ISO 8601 text, truncated to milliseconds."""
    return f"{value:%Y-%m-%d}{separator}{value:%H:%M:%S}.{value.microsecond // 1000:03d}"


DATETIMES: Mapping[str, Function] = {
    # Whole seconds, truncated toward zero, as a float: what Chalk's evaluator gives.
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
        lambda value: float(epoch_us(value)) / 1_000_000,
    ),
    "from_unixtime": Function(
        "a number",
        takes(NUMBERS, 1, "datetime"),
        _from_unix,
        _from_unix_value,
    ),
    "date_trunc": Function(
        "a unit and a datetime",
        takes_exactly(("string", "datetime"), result="datetime"),
        lambda args, call: args[1].dt.truncate(_UNITS[literal(call, 0)].polars),
        lambda unit, value: _UNITS[unit].truncate(value),
        check=_check_unit,
    ),
    # Of a datetime Chalk gives a date; here it is the midnight that begins it, as in stored plans.
    "last_day_of_month": Function(
        "a datetime",
        takes(("datetime",), 1, "datetime"),
        lambda args, _: args[0].dt.month_end().dt.truncate("1d"),
        lambda value: _midnight(value).replace(day=monthrange(value.year, value.month)[1]),
    ),
    "to_iso8601": Function(
        "a datetime",
        takes(("datetime",), 1, "string"),
        lambda args, _: args[0].dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        lambda value: iso_milliseconds(value, "T") + "Z",
    ),
    "year": _day_part(lambda dt: dt.year(), lambda v: v.year),
    "quarter": _day_part(lambda dt: dt.quarter(), lambda v: (v.month + 2) // 3),
    "month": _day_part(lambda dt: dt.month(), lambda v: v.month),
    "day_of_month": _day_part(lambda dt: dt.day(), lambda v: v.day),
    "day_of_year": _day_part(lambda dt: dt.ordinal_day(), lambda v: v.timetuple().tm_yday),
    # ISO: Monday is 1.
    "day_of_week": _day_part(lambda dt: dt.weekday(), lambda v: v.isoweekday()),
    "week_of_year": _day_part(lambda dt: dt.week(), lambda v: v.isocalendar().week),
    "hour": Function(
        "a datetime",
        takes(("datetime",), 1, "int64"),
        lambda args, _: args[0].dt.hour().cast(pl.Int64),
        lambda value: value.hour,
    ),
}
