"""Operations on one moment: calendar, cycles, time since."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.operations.holidays import holidays_of
from sunloom.preprocessing.operations.number_columns import as_numbers
from sunloom.preprocessing.operations.protocol import RowFunction, Training

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
_PYTHON: Mapping[str, Callable[[Any], int]] = {
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


def local(column: str, dtype: pl.DataType, zone: str) -> pl.Expr:
    """A moment as the clock on the wall shows it; a date as it is.

    Raises:
        DataError: The datetimes have no time zone.
    """
    if dtype == pl.Date:
        return pl.col(column)
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise naive_error(column)
    return pl.col(column).dt.convert_time_zone(zone)


def naive_error(column: str) -> DataError:
    """The refusal of datetimes without a time zone."""
    return DataError(
        f"Column {column!r} holds datetimes without a time zone.",
        "Write them in UTC, such as pl.col(…).dt.replace_time_zone('UTC').",
        column,
    )


def localized(column: str, value: Any, zone: ZoneInfo) -> Any:
    """One moment as the clock on the wall shows it; a date as it is."""
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise naive_error(column)
    return value.astimezone(zone)


def _part(moment: pl.Expr, part: str, is_date: bool) -> pl.Expr:
    if is_date and part in _CLOCK:
        return pl.when(moment.is_not_null()).then(0)
    named = {
        "is_weekend": lambda: moment.dt.weekday() > 5,
        "is_month_start": lambda: moment.dt.day() == 1,
        "is_month_end": lambda: moment.dt.date() == moment.dt.date().dt.month_end(),
        "day_of_year": lambda: moment.dt.ordinal_day(),
    }
    found: pl.Expr = named[part]() if part in named else getattr(moment.dt, part)()
    return found


@dataclass(frozen=True)
class AtMoment:
    """An operation that reads one moment's column and appends columns."""

    column: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()


@dataclass(frozen=True)
class CalendarParts(AtMoment):
    """Whole numbers: parts of the moment; 0 and 1 for what is or is not."""

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
        moment, is_date = local(self.column, dtype, self.zone), dtype == pl.Date
        found = []
        for part, name in zip(self.parts, self.outputs, strict=True):
            if part == "is_holiday":
                value = moment.dt.date().is_in(self._days(frame))
            else:
                value = _part(moment, part, is_date)
            found.append(value.cast(pl.Int64).alias(name))
        return found

    def _days(self, frame: pl.DataFrame) -> list[date]:
        years = frame[self.column].dt.year().unique().drop_nulls()
        around = {year + step for year in years for step in (-1, 0, 1)}
        return sorted(day for year in around for day in holidays_of(self.holidays, year))

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, zone, holidays = self.column, ZoneInfo(self.zone), self.holidays
        made = [(n, _PYTHON.get(p)) for n, p in zip(self.outputs, self.parts, strict=True)]

        def part(row: dict[str, Any]) -> None:
            moment = localized(column, row[column], zone)
            for name, function in made:
                if moment is None:
                    row[name] = None
                elif function is None:
                    day = date(moment.year, moment.month, moment.day)
                    row[name] = int(day in holidays_of(holidays, day.year))
                else:
                    row[name] = function(moment)

        return part


@dataclass(frozen=True)
class Cycle(AtMoment):
    """Sine and cosine of a part of a moment, or of a number where there is no part."""

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
        dtype = frame.schema[self.column]
        if self.part:
            value = _part(local(self.column, dtype, self.zone), self.part, dtype == pl.Date)
        else:
            value = as_numbers(self.column)
        angle = (value.cast(pl.Float64) - self.first) * (2 * math.pi / self.period)
        return [angle.sin().alias(self.outputs[0]), angle.cos().alias(self.outputs[1])]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, zone, (sine, cosine) = self.column, ZoneInfo(self.zone), self.outputs
        first, factor = self.first, 2 * math.pi / self.period
        part = _PYTHON[self.part] if self.part else float

        def turn(row: dict[str, Any]) -> None:
            value = row[column]
            if value is None:
                row[sine] = row[cosine] = None
                return
            angle = (part(localized(column, value, zone)) - first) * factor
            row[sine], row[cosine] = math.sin(angle), math.cos(angle)

        return turn


@dataclass(frozen=True)
class Since(AtMoment):
    """Time from the column's moment until another; null where that is later, or either is."""

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
        gone = (end - start) / (SECONDS[self.unit] * 1_000_000)
        return [pl.when(gone >= 0).then(gone).alias(self.outputs[0])]

    def _micros(self, frame: pl.DataFrame, name: str) -> pl.Expr:
        moment = local(name, frame.schema[name], "UTC")
        return moment.cast(pl.Datetime("us")).cast(pl.Int64)

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, until, name = self.column, self.until_column, self.outputs[0]
        fixed, size = self.until_us, SECONDS[self.unit] * 1_000_000

        def measure(row: dict[str, Any]) -> None:
            start = _micros_of(column, row[column])
            end = _micros_of(until, row[until]) if until else fixed
            there = start is not None and end is not None and end >= start
            row[name] = (end - start) / size if there else None  # type: ignore[operator]

        return measure


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _micros_of(column: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        raise naive_error(column)
    gap: timedelta = value - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds
