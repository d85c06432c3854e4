"""Steps of ``transformations`` about time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model

Columns = tuple[str, ...] | None
Aggregation = Literal["count", "sum", "mean", "min", "max", "std"]
Part = Literal[
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "weekday",
    "day_of_year",
    "hour",
    "minute",
    "is_weekend",
    "is_month_start",
    "is_month_end",
    "is_holiday",
]
CyclicPart = Literal["month", "day", "weekday", "day_of_year", "hour", "minute"]
Unit = Literal["days", "hours", "minutes", "seconds"]


class _HistoryStep(Model):
    # Declared before the kinds narrow it, so that it stays a step's first key in the reference.
    type: str
    columns: Columns = None
    """Number columns; all of them when empty."""
    time: str
    """Timestamp column."""
    by: tuple[str, ...] = ()
    """Columns of the entity key; one series when empty."""


class Lags(_HistoryStep):
    """Values of the same entity's earlier rows, in columns ``<column>_lag_<n>``.

    Needs the whole table: not for one row at serving.
    """

    type: Literal["lags"] = "lags"
    time: str
    """Timestamp column; rows with one timestamp follow their order in the table."""
    # Below 1 a row would see itself or later rows.
    periods: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    """Numbers of rows back."""


class Rolling(_HistoryStep):
    """Aggregates over the entity's rows in (t - window, t].

    Columns are ``<column>_<aggregation>_<seconds>s``. A row sees itself and the rows
    with its own timestamp, nothing later. Needs the whole table.
    """

    type: Literal["rolling"] = "rolling"
    windows: tuple[Duration, ...] = Field(min_length=1)
    """Lengths, such as ``7d``."""
    aggregations: tuple[Aggregation, ...] = ("mean",)
    """What is computed; the standard deviation divides by n - 1."""


class Expanding(_HistoryStep):
    """Aggregates over all the entity's rows up to t, as ``<column>_<aggregation>_so_far``.

    A row sees itself and the rows with its own timestamp, nothing later. Needs the whole table.
    """

    type: Literal["expanding"] = "expanding"
    aggregations: tuple[Literal["count", "sum", "mean", "min", "max"], ...] = ("mean",)
    """What is computed."""


class ExponentiallyWeighted(_HistoryStep):
    """A mean in which the past counts half as much after each half-life, ``<column>_ewm_<s>s``.

    A row sees itself and the rows with its own timestamp, nothing later. Needs the whole table.
    """

    type: Literal["exponentially_weighted"] = "exponentially_weighted"
    half_lives: tuple[Duration, ...] = Field(min_length=1)
    """Lengths, such as ``7d``."""


class Calendar(Model):
    """Parts of a date or datetime, appended as ``<column>_<part>``."""

    type: Literal["calendar"] = "calendar"
    columns: Columns = None
    """Date and datetime columns; all of them when empty."""
    parts: tuple[Part, ...] = ("month", "day", "weekday", "hour")
    """Which parts; weekdays count from Monday = 1, weeks are ISO weeks."""
    time_zone: str = "UTC"
    """Time zone to which a datetime is converted, such as ``Europe/Zurich``."""
    holidays: tuple[str, ...] = ()
    """For ``is_holiday``: days (``2026-07-03``), days of every year (``12-25``), Easter's
    (``easter+39``), weekdays (``11-thu-4``: the fourth Thursday of November; -1 is the last), or
    ``us``, the federal ones of the United States on their own dates."""


class Cyclic(Model):
    """Sine and cosine, so that the end of a cycle is next to its beginning."""

    type: Literal["cyclic"] = "cyclic"
    columns: Columns = None
    """Date and datetime columns (all of them when empty), or number columns with ``period``."""
    parts: tuple[CyclicPart, ...] = ("month", "weekday", "hour")
    """Which parts of a datetime, as ``<column>_<part>_sin`` and ``_cos``."""
    period: float | None = Field(default=None, gt=0)
    """For numbers: the length of a cycle; the columns are ``<column>_sin`` and ``_cos``."""
    time_zone: str = "UTC"
    """Time zone to which a datetime is converted."""


class TimeSince(Model):
    """Time until another time, appended as ``<column>_<unit>_ago``; null if that is earlier."""

    type: Literal["time_since"] = "time_since"
    columns: Columns = None
    """Datetime columns; all others than ``until`` when empty."""
    until: str | None = None
    """Column with each row's end."""
    moment: AwareDatetime | None = None
    """One end for all rows, instead of ``until``."""
    unit: Unit = "days"
    """Unit of the result."""

    @model_validator(mode="after")
    def _check_end(self) -> TimeSince:
        if (self.until is None) == (self.moment is None):
            raise ValueError("either until (a column) or moment is needed")
        return self
