"""Operations on one date or datetime column: calendar parts with holidays, cycles, elapsed time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from sunloom.errors import ConfigError, DataError
from sunloom.preprocessing.columns import as_numbers
from sunloom.preprocessing.operations.protocol import OneColumn, RowFunction, Training

UNITED_STATES = (
    "01-01",
    "01-mon-3",
    "02-mon-3",
    "05-mon--1",
    "06-19",
    "07-04",
    "09-mon-1",
    "10-mon-2",
    "11-11",
    "11-thu-4",
    "12-25",
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_Finder = Callable[[re.Match[str], int], "date | None"]


@lru_cache(maxsize=4096)
def holidays_of(rules: tuple[str, ...], year: int) -> frozenset[date]:
    """The holidays of a year.

    Args:
        rules: As ``Calendar.holidays`` describes them.
        year: The year.

    Raises:
        ConfigError: A rule has none of the known forms.
    """
    single = [part for rule in rules for part in (UNITED_STATES if rule == "us" else (rule,))]
    days = {_day_of(rule, year) for rule in single}
    return frozenset(day for day in days if day is not None)


def check_rules(rules: Sequence[str]) -> None:
    """Refuse a rule of no known form, before any row is read.

    Raises:
        ConfigError: Names the rule.
    """
    # A leap year: 02-29 is a day of it.
    holidays_of(tuple(rules), 2024)


def easter(year: int) -> date:
    """Western Easter Sunday (the anonymous Gregorian computus)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return date(year, month, day + 1)


def _day_of(rule: str, year: int) -> date | None:
    for pattern, find in _FORMS:
        if match := re.fullmatch(pattern, rule):
            try:
                return find(match, year)
            except ValueError as error:
                raise ConfigError(f"The holiday {rule!r} is no day: {error}.") from error
    raise ConfigError(
        f"There is no holiday rule {rule!r}.",
        "Write 2026-07-03, 12-25, easter+39, 11-thu-4, 05-mon--1 or us.",
        "holidays",
    )


def _single_day(match: re.Match[str], year: int) -> date | None:
    day = date.fromisoformat(match.group())
    return day if day.year == year else None


def _yearly_day(match: re.Match[str], year: int) -> date | None:
    month, day = int(match.group(1)), int(match.group(2))
    if (month, day) == (2, 29) and (year % 4 or (year % 100 == 0 and year % 400)):
        return None
    return date(year, month, day)


def _nth_weekday(match: re.Match[str], year: int) -> date | None:
    month, weekday, nth = int(match[1]), _WEEKDAYS.index(match[2]), int(match[3])
    if nth > 0:
        first = date(year, month, 1)
        day = first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))
    else:
        last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
        day = last - timedelta(days=(last.weekday() - weekday) % 7 + 7 * (-nth - 1))
    # A fifth weekday that the month does not have falls into the next one.
    return day if day.month == month else None


_FORMS: tuple[tuple[str, _Finder], ...] = (
    (r"\d{4}-\d\d-\d\d", _single_day),
    (r"(\d\d)-(\d\d)", _yearly_day),
    (r"easter([+-]\d+)?", lambda match, year: easter(year) + timedelta(days=int(match[1] or 0))),
    (rf"(\d\d)-({'|'.join(_WEEKDAYS)})-(-?[1-5])", _nth_weekday),
)


SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
# Length of each part's cycle, and its first value.
CYCLES = {
    "month": (12.0, 1),
    "day": (31.0, 1),
    "weekday": (7.0, 1),
    "day_of_year": (365.2425, 1),
    "hour": (24.0, 0),
    "minute": (60.0, 0),
}
_CLOCK = ("hour", "minute")
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PART_OF_VALUE: Mapping[str, Callable[[Any], int]] = {
    "year": lambda t: t.year,
    "quarter": lambda t: (t.month + 2) // 3,
    "month": lambda t: t.month,
    "week": lambda t: t.isocalendar().week,
    "day": lambda t: t.day,
    "weekday": lambda t: t.isoweekday(),
    "day_of_year": lambda t: t.timetuple().tm_yday,
    "hour": lambda t: t.hour if isinstance(t, datetime) else 0,
    "minute": lambda t: t.minute if isinstance(t, datetime) else 0,
    "is_weekend": lambda t: int(t.isoweekday() > 5),
    "is_month_start": lambda t: int(t.day == 1),
    "is_month_end": lambda t: int((t + _DAY).month != t.month),
}
# The parts for which Polars' ``dt`` namespace has another name, or none.
_PART_OF_COLUMN: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "is_weekend": lambda t: t.dt.weekday() > 5,
    "is_month_start": lambda t: t.dt.day() == 1,
    "is_month_end": lambda t: t.dt.date() == t.dt.date().dt.month_end(),
    "day_of_year": lambda t: t.dt.ordinal_day(),
}


def naive_error(column: str) -> DataError:
    """The refusal of datetimes without a time zone."""
    return DataError(
        f"Column {column!r} holds datetimes without a time zone.",
        "Write them in UTC, such as 2026-01-31T12:00:00Z in a text file.",
        column,
    )


def micros_of(time: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, in whole numbers: a float would round."""
    gap = time - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds


def _localize_column(column: str, dtype: pl.DataType, zone: str) -> pl.Expr:
    """A datetime column in local time; a date column as it is.

    Raises:
        DataError: The datetimes have no time zone.
    """
    if dtype == pl.Date:
        return pl.col(column)
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise naive_error(column)
    return pl.col(column).dt.convert_time_zone(zone)


def _localize(column: str, value: Any, zone: ZoneInfo) -> Any:
    """A datetime in local time; a date as it is."""
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise naive_error(column)
    return value.astimezone(zone)


def _part_of_column(time: pl.Expr, part: str, is_date: bool) -> pl.Expr:
    if is_date and part in _CLOCK:
        return pl.when(time.is_not_null()).then(0)
    function = _PART_OF_COLUMN.get(part)
    expression: pl.Expr = function(time) if function else getattr(time.dt, part)()
    return expression


@dataclass(frozen=True)
class CalendarParts(OneColumn):
    """Whole numbers: parts of a date or datetime; 0 and 1 for what is or is not."""

    op: ClassVar[str] = "calendar"
    parts: tuple[str, ...]
    zone: str = "UTC"
    holidays: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return tuple(f"{self.column}_{part}" for part in self.parts)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The parts."""
        dtype = frame.schema[self.column]
        time, is_date = _localize_column(self.column, dtype, self.zone), dtype == pl.Date
        columns = []
        for part, name in zip(self.parts, self.outputs, strict=True):
            if part == "is_holiday":
                value = time.dt.date().is_in(self._holidays_around(frame))
            else:
                value = _part_of_column(time, part, is_date)
            # Polars has another integer type for each part.
            columns.append(value.cast(pl.Int64).alias(name))
        return columns

    def _holidays_around(self, frame: pl.DataFrame) -> list[date]:
        years = frame[self.column].dt.year().unique().drop_nulls()
        # Local time may fall into the year before or after.
        around = {year + step for year in years for step in (-1, 0, 1)}
        return sorted(day for year in around for day in holidays_of(self.holidays, year))

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, zone, holidays = self.column, ZoneInfo(self.zone), self.holidays
        parts = [(n, _PART_OF_VALUE.get(p)) for n, p in zip(self.outputs, self.parts, strict=True)]

        def part(row: dict[str, Any]) -> None:
            time = _localize(column, row[column], zone)
            for name, function in parts:
                if time is None:
                    row[name] = None
                elif function is None:
                    day = date(time.year, time.month, time.day)
                    row[name] = int(day in holidays_of(holidays, day.year))
                else:
                    row[name] = function(time)

        return part


@dataclass(frozen=True)
class Cycle(OneColumn):
    """Sine and cosine of a part of a datetime, or of a number where ``part`` is empty."""

    op: ClassVar[str] = "cycle"
    part: str
    period: float
    first: float = 0.0
    zone: str = "UTC"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        stem = f"{self.column}_{self.part}" if self.part else self.column
        return (f"{stem}_sin", f"{stem}_cos")

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """Sine and cosine."""
        if self.part:
            dtype = frame.schema[self.column]
            time = _localize_column(self.column, dtype, self.zone)
            value = _part_of_column(time, self.part, dtype == pl.Date)
        else:
            value = as_numbers(self.column)
        angle = (value.cast(pl.Float64) - self.first) * (2 * math.pi / self.period)
        return [angle.sin().alias(self.outputs[0]), angle.cos().alias(self.outputs[1])]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, zone, (sine, cosine) = self.column, ZoneInfo(self.zone), self.outputs
        first, factor = self.first, 2 * math.pi / self.period
        part = _PART_OF_VALUE[self.part] if self.part else float

        def turn(row: dict[str, Any]) -> None:
            value = row[column]
            if value is None:
                row[sine] = row[cosine] = None
                return
            angle = (part(_localize(column, value, zone)) - first) * factor
            row[sine], row[cosine] = math.sin(angle), math.cos(angle)

        return turn


@dataclass(frozen=True)
class ElapsedTime(OneColumn):
    """Time from the column until another time; null where that is earlier, or either is null.

    Attributes:
        column: Datetime column.
        unit: Unit of the result.
        until_column: Column with the end.
        until_us: The end for all rows instead, microseconds since 1970.
    """

    op: ClassVar[str] = "since"
    unit: str
    until_column: str | None = None
    until_us: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column, self.until_column) if self.until_column else (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (f"{self.column}_{self.unit}_ago",)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The time."""
        start = self._micros(frame, self.column)
        end = self._micros(frame, self.until_column) if self.until_column else pl.lit(self.until_us)
        elapsed = (end - start) / (SECONDS[self.unit] * 1_000_000)
        return [pl.when(elapsed >= 0).then(elapsed).alias(self.outputs[0])]

    def _micros(self, frame: pl.DataFrame, name: str) -> pl.Expr:
        time = _localize_column(name, frame.schema[name], "UTC")
        # Whole microseconds: differences are exact.
        return time.cast(pl.Datetime("us")).cast(pl.Int64)

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, until, name = self.column, self.until_column, self.outputs[0]
        fixed_end, size = self.until_us, SECONDS[self.unit] * 1_000_000

        def measure(row: dict[str, Any]) -> None:
            start = _micros_of_value(column, row[column])
            end = _micros_of_value(until, row[until]) if until else fixed_end
            is_known = start is not None and end is not None and end >= start
            row[name] = (end - start) / size if is_known else None  # type: ignore[operator]

        return measure


def _micros_of_value(column: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        # A date is its first instant in UTC, as Polars casts it.
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        raise naive_error(column)
    return micros_of(value)
