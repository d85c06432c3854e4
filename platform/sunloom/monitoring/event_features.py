"""Features of an event log that can be compared between periods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from sunloom.config.monitoring import (
    EventsConfig,
    MonitoringRecipe,
    PeriodConfig,
    QuotientConfig,
)
from sunloom.errors import DataError, UsageError, known_names_hint


def read_events(recipe: MonitoringRecipe) -> pl.DataFrame:
    """The recipe's event log, every period.

    Raises:
        UsageError: The file or folder does not exist or holds no Parquet.
        DataError: It lacks the column of the entity or of the event time.
    """
    path = recipe.events.path or recipe.paths.outputs / "data" / "cdnow" / "purchases"
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UsageError(f"There are no events in {path}.", "Run the data step first.", "events")
    frame = pl.read_parquet(files)
    for name in (recipe.events.entity, recipe.events.event_time):
        if name not in frame.columns:
            hint = known_names_hint(name, frame.columns)
            raise DataError(f"The events in {path} have no column {name!r}.", hint, name)
    return frame


def event_features(events: pl.DataFrame, config: EventsConfig) -> pl.DataFrame:
    """Each event's columns, and features of its entity's past.

    Key: one row an event; event time ``config.event_time``. Adds ``days_since_previous``
    (Float64, null at an entity's first event), ``days_since_first`` (Float64),
    ``earlier_events`` (Int64), ``weekday`` (Int64, Monday 1) and the quotients (Float64). Only
    events that are not later are used.
    """
    entity, event_time = config.entity, config.event_time
    # Events of one time keep the order of the file, so that each run gives the same features.
    ordered = events.sort(entity, event_time, maintain_order=True)
    time, day = pl.col(event_time), pl.duration(days=1)
    return ordered.with_columns(
        ((time - time.shift(1).over(entity)) / day).alias("days_since_previous"),
        ((time - time.first().over(entity)) / day).alias("days_since_first"),
        pl.int_range(pl.len(), dtype=pl.Int64).over(entity).alias("earlier_events"),
        time.dt.weekday().cast(pl.Int64).alias("weekday"),
        *[_quotient(quotient) for quotient in config.quotients],
    ).drop(entity)


def in_period(events: pl.DataFrame, event_time: str, period: PeriodConfig) -> pl.DataFrame:
    """Events of the period's days.

    Raises:
        DataError: There are none.
    """
    start = datetime(period.start.year, period.start.month, period.start.day, tzinfo=UTC)
    end = datetime(period.end.year, period.end.month, period.end.day, tzinfo=UTC)
    time = pl.col(event_time)
    # Both days of a period are included.
    rows = events.filter(time >= start, time < end + timedelta(days=1))
    if rows.is_empty():
        times = (time.min().cast(pl.String), time.max().cast(pl.String).alias("last"))
        first, last = events.select(*times).row(0)
        raise DataError(f"No event is in {period}.", f"They run from {first} to {last}.")
    return rows


def _quotient(config: QuotientConfig) -> pl.Expr:
    quotient = pl.col(config.numerator) / pl.col(config.denominator)
    # Division by 0 gives infinity or NaN; null says that there is no quotient.
    return pl.when(quotient.is_finite()).then(quotient).alias(config.name)
