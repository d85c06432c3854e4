"""The rows of a monitor's source, as counts by hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from sunloom.config.monitoring.watch import WatchConfig
from sunloom.data.quality.batches import table_from_path
from sunloom.data.sources.table_files import data_files, require_columns
from sunloom.errors import DataError, known_names_hint
from sunloom.monitoring.bins import Bins
from sunloom.monitoring.histogram_store import EPOCH
from sunloom.monitoring.histograms import Histogram, count_rows_by_group, merge_histograms

_HOUR_US = 3_600_000_000
_SAMPLE_ROWS = 200_000
_MOST_TEXTS = 100


@dataclass
class HourlyCounts:
    """What a read of the source gave.

    Attributes:
        hours: Start of the hour to its counts.
        rows: Rows counted.
        newest: Latest event time, if there is any.
    """

    hours: dict[datetime, Histogram] = field(default_factory=dict)
    rows: int = 0
    newest: datetime | None = None


def sample_rows(path: Path, event_time: str | None) -> pl.DataFrame:
    """The earliest rows of a table, up to 200,000, from which cells are made."""
    if _is_parquet(path):
        frame = pl.scan_parquet(data_files(path))
        if event_time is not None and event_time in frame.collect_schema().names():
            frame = frame.bottom_k(_SAMPLE_ROWS, by=event_time)
        return frame.head(_SAMPLE_ROWS).collect()
    return pl.concat(list(_frames(path, event_time))).head(_SAMPLE_ROWS)


def rows_before(frame: pl.DataFrame, event_time: str, end: datetime, least: int) -> pl.DataFrame:
    """The rows before ``end`` where there are so many, else all.

    So what is new in the newest window lies outside the range that its past gives.
    """
    column = frame[event_time] if event_time in frame.columns else None
    if column is None or not isinstance(column.dtype, pl.Datetime) or not column.dtype.time_zone:
        return frame
    earlier = frame.filter(column < end)
    return earlier if earlier.height >= least else frame


def whole_table(path: Path) -> Iterator[pl.DataFrame]:
    """Every row, in parts."""
    return _frames(path, None)


def watched_features(sample: pl.DataFrame, config: WatchConfig) -> list[str]:
    """The recipe's features, or those that can be watched.

    Raises:
        DataError: A feature of the recipe is no column.
    """
    for name in (*config.features, *config.defaults):
        if name not in sample.columns:
            raise DataError(
                f"There is no column {name!r} to watch.",
                known_names_hint(name, sample.columns),
                name,
            )
    if config.features:
        return list(config.features)
    aside = {*config.exclude, config.source.event_time}
    return [n for n in sample.columns if n not in aside and _is_watchable(sample[n])]


def count_hours(
    config: WatchConfig, cells: Bins, start: datetime | None, end: datetime
) -> HourlyCounts:
    """Count the source's rows from ``start`` (None: from the first) until before ``end``.

    Raises:
        UsageError: The source is not there.
        DataError: A column is missing or is no time with a zone.
    """
    moment = config.source.event_time
    assert moment is not None
    found = HourlyCounts()
    for frame in timed_rows(config, cells):
        kept = frame.filter(in_spans([(start or EPOCH, end)], moment))
        if kept.height:
            _add(found, kept, moment, cells)
    return found


def timed_rows(config: WatchConfig, cells: Bins) -> Iterator[pl.DataFrame]:
    """Every row of the source, in parts, with its time in UTC.

    Raises:
        UsageError: The source is not there.
        DataError: A column is missing or is no time with a zone.
    """
    moment = config.source.event_time
    assert moment is not None
    for frame in _frames(config.source.path, moment):
        require_columns(frame, (moment, *cells.names), str(config.source.path))
        yield frame.with_columns(_times(frame[moment]).alias(moment))


def in_spans(spans: Sequence[tuple[datetime, datetime]], moment: str) -> pl.Expr:
    """Whether a row lies in one of the spans, whose ends do not belong to them."""
    at = pl.col(moment)
    return pl.any_horizontal([(at >= start) & (at < end) for start, end in spans])


def _add(found: HourlyCounts, frame: pl.DataFrame, moment: str, cells: Bins) -> None:
    hours = frame[moment].dt.epoch("us").to_numpy() // _HOUR_US
    starts, group = np.unique(hours, return_inverse=True)
    counted = count_rows_by_group(frame, cells, group.astype(np.int64), len(starts))
    for hour, histogram in zip(starts, counted, strict=True):
        start = EPOCH + int(hour) * (datetime.resolution * _HOUR_US)
        held = found.hours.get(start)
        found.hours[start] = (
            histogram if held is None else merge_histograms([held, histogram], cells)
        )
    newest = frame[moment].max()
    assert isinstance(newest, datetime)
    found.newest = newest if found.newest is None else max(newest, found.newest)
    found.rows += frame.height


def _frames(path: Path, event_time: str | None) -> Iterator[pl.DataFrame]:
    rows = table_from_path(path)
    if event_time is not None and event_time in rows.schema and not _is_parquet(path):
        rows = rows.with_types({event_time: "datetime"})
    for batch in rows.batches():
        yield batch.typed.select(list(rows.schema))


def _times(column: pl.Series) -> pl.Series:
    if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
        raise DataError(
            f"The event time {column.name!r} is {column.dtype}, not datetimes with a time zone.",
            "Write them in UTC, or leave watch.source.event_time empty.",
            column.name,
        )
    return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")


def _is_parquet(path: Path) -> bool:
    files: Sequence[Path] = data_files(path)
    return all(file.suffix == ".parquet" for file in files)


def _is_watchable(column: pl.Series) -> bool:
    if column.dtype.is_numeric():
        return bool(column.cast(pl.Float64).is_finite().any())
    if column.dtype == pl.Boolean:
        return column.null_count() < len(column)
    is_text = column.dtype in (pl.String, pl.Categorical, pl.Enum)
    return is_text and 0 < column.drop_nulls().n_unique() <= _MOST_TEXTS
