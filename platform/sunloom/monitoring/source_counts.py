"""Rows of a monitor's source, counted by hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from sunloom.config.monitoring import WatchConfig
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.checked_table import table_from_path
from sunloom.data.quality.drift_statistics import has_value
from sunloom.data.sources.folder_schema import fit_columns, merge_schemas
from sunloom.data.sources.table_files import data_files, parquet_schema, require_columns
from sunloom.errors import DataError, MissingColumnError, known_names_hint
from sunloom.monitoring.histograms import Bins, Histogram, count_rows_by_group, merge_histograms
from sunloom.monitoring.windows import EPOCH, HOUR, TimeSpan

_HOUR_US = 3_600_000_000
# Enough for quantiles of 200 bins, and in memory at once.
_SAMPLE_ROWS = 200_000
# A column of more texts holds names or free text, and has no distribution to watch.
_MOST_TEXTS = 100


@dataclass
class HourlyCounts:
    """Counts of the source's rows, accumulated part by part.

    Attributes:
        hours: Start of the hour to its histogram.
        rows: Rows counted.
        newest: Latest event time, if there is any.
    """

    hours: dict[datetime, Histogram] = field(default_factory=dict)
    rows: int = 0
    newest: datetime | None = None

    def add(self, frame: pl.DataFrame, event_time: str, bins: Bins) -> None:
        """Count the rows of a part."""
        # Hours as integers: grouping them takes no datetime object a row.
        hours = frame[event_time].dt.epoch("us").to_numpy() // _HOUR_US
        starts, group = np.unique(hours, return_inverse=True)
        histograms = count_rows_by_group(frame, bins, group.astype(np.int64), len(starts))
        for hour, histogram in zip(starts, histograms, strict=True):
            start = EPOCH + int(hour) * HOUR
            earlier = self.hours.get(start)
            self.hours[start] = (
                histogram if earlier is None else merge_histograms([earlier, histogram], bins)
            )
        newest = frame[event_time].max()
        assert isinstance(newest, datetime)
        self.newest = newest if self.newest is None else max(newest, self.newest)
        self.rows += frame.height


def sample_rows(path: Path, event_time: str | None) -> pl.DataFrame:
    """The earliest rows of a table, up to 200,000, from which bins are built."""
    if _is_parquet(path):
        schemas = {file: parquet_schema(file) for file in data_files(path)}
        schema = merge_schemas((str(file), own) for file, own in schemas.items())
        frame = pl.concat(
            pl.scan_parquet(file, glob=False).select(fit_columns(own, schema))
            for file, own in schemas.items()
        )
        try:
            if event_time is not None and event_time in schema:
                frame = frame.bottom_k(_SAMPLE_ROWS, by=event_time)
            return frame.head(_SAMPLE_ROWS).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}") from error
    return pl.concat(list(table_rows(path, event_time))).head(_SAMPLE_ROWS)


def rows_before(frame: pl.DataFrame, event_time: str, end: datetime, least: int) -> pl.DataFrame:
    """The rows before ``end`` where there are at least ``least``, else all.

    Bins of these rows do not know the newest window: what is new in it lies outside their range.
    """
    column = frame[event_time] if event_time in frame.columns else None
    if column is None or not isinstance(column.dtype, pl.Datetime) or not column.dtype.time_zone:
        return frame
    earlier = frame.filter(column < end)
    return earlier if earlier.height >= least else frame


def watched_features(sample: pl.DataFrame, config: WatchConfig) -> list[str]:
    """The recipe's features, or those that can be watched.

    Raises:
        DataError: A feature of the recipe is no column.
    """
    for name in (*config.features, *config.defaults):
        if name not in sample.columns:
            raise MissingColumnError(
                f"There is no column {name!r} to watch.",
                known_names_hint(name, sample.columns),
                name,
            )
    if config.features:
        return list(config.features)
    excluded = {*config.exclude, config.source.event_time}
    return [n for n in sample.columns if n not in excluded and _is_watchable(sample[n])]


def count_hours(
    config: WatchConfig, bins: Bins, start: datetime | None, end: datetime
) -> HourlyCounts:
    """Count the source's rows from ``start`` (None: from the first) until before ``end``.

    Raises:
        UsageError: The source does not exist.
        DataError: The event time is missing, or has no time zone.
    """
    event_time = config.source.event_time
    assert event_time is not None
    counts = HourlyCounts()
    for frame in timed_rows(config):
        rows = frame.filter(in_spans([TimeSpan(start or EPOCH, end)], event_time))
        if rows.height:
            counts.add(rows, event_time, bins)
    return counts


def timed_rows(config: WatchConfig) -> Iterator[pl.DataFrame]:
    """Every row of the source, in parts, with its event time in UTC.

    Raises:
        UsageError: The source does not exist.
        DataError: The event time is missing, also in every row, or has no time zone.
    """
    event_time = config.source.event_time
    assert event_time is not None
    rows = timeless = 0
    for frame in table_rows(config.source.path, event_time):
        require_columns(frame, (event_time,), str(config.source.path))
        dtype = frame.schema[event_time]
        if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
            raise DataError(
                f"The event time {event_time!r} is {dtype}, not datetimes with a time zone.",
                "Write them in UTC, or leave watch.source.event_time empty.",
                event_time,
            )
        rows += frame.height
        timeless += frame[event_time].null_count()
        time = pl.col(event_time).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        yield frame.with_columns(time)
    if timeless:
        # No window has them: without this line they would be gone, and the monitor be calm.
        problem = f"{timeless:,} of {rows:,} rows of {config.source.path} have no {event_time}"
        if timeless == rows:
            raise DataError(f"{problem}.", "A time is ISO 8601 with its zone.", event_time)
        get_logger("monitoring").warning("%s: %s", config.name, problem)


def table_rows(path: Path, event_time: str | None = None) -> Iterator[pl.DataFrame]:
    """Every row of a table, in parts."""
    table = table_from_path(path)
    if event_time is not None and event_time in table.schema and not _is_parquet(path):
        # CSV and JSON lines: the event time must not be taken for text where one row is damaged.
        table = table.with_types({event_time: "datetime"})
    for batch in table.batches():
        # Without the presence columns that a typed batch has beside the source's own.
        yield batch.typed.select(list(table.schema))


def in_spans(spans: Sequence[TimeSpan], event_time: str) -> pl.Expr:
    """Whether a row's event time is in one of the spans."""
    at = pl.col(event_time)
    return pl.any_horizontal([(at >= start) & (at < end) for start, end in spans])


def _is_parquet(path: Path) -> bool:
    return all(file.suffix == ".parquet" for file in data_files(path))


def _is_watchable(column: pl.Series) -> bool:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return has_value(column)
    is_text = column.dtype in (pl.String, pl.Categorical, pl.Enum)
    return is_text and 0 < column.drop_nulls().n_unique() <= _MOST_TEXTS
