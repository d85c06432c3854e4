"""Columns of an event log: only the past counts, and no id gets out."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from sunloom.config.monitoring import (
    EventsConfig,
    MonitoringRecipe,
    PeriodConfig,
    QuotientConfig,
)
from sunloom.errors import DataError, UsageError
from sunloom.monitoring.drift_job import event_features, in_period, read_events

CONFIG = EventsConfig(
    quotients=(QuotientConfig(name="unit_price", numerator="amount", denominator="quantity"),)
)


def _day(day: int, hour: int = 0) -> datetime:
    return datetime(1997, 1, day, hour, tzinfo=UTC)


EVENTS = pl.DataFrame(
    {
        "customer_id": [2, 1, 1, 2],
        "timestamp": [_day(5), _day(4), _day(1), _day(3, 12)],
        "quantity": [0, 2, 1, 4],
        "amount": [0.0, 10.0, 7.0, 8.0],
    }
)


def test_each_event_knows_its_entitys_past_alone() -> None:
    rows = event_features(EVENTS, CONFIG).sort("timestamp")
    assert rows["days_since_previous"].to_list() == [None, None, 3.0, 1.5]
    assert rows["days_since_first"].to_list() == [0.0, 0.0, 3.0, 1.5]
    assert rows["earlier_events"].to_list() == [0, 0, 1, 1]
    assert rows["weekday"].to_list() == [3, 5, 6, 7]
    assert rows["unit_price"].to_list() == [7.0, 2.0, 5.0, None]


def test_the_entity_column_is_dropped() -> None:
    assert "customer_id" not in event_features(EVENTS, CONFIG).columns


def test_a_later_event_changes_nothing_before_it() -> None:
    early = event_features(EVENTS.filter(pl.col("timestamp") < _day(4)), CONFIG)
    all_rows = event_features(EVENTS, CONFIG)
    assert (
        all_rows.filter(pl.col("timestamp") < _day(4))
        .sort("timestamp")
        .equals(early.sort("timestamp"))
    )


def test_a_period_includes_its_last_day() -> None:
    chosen = in_period(
        EVENTS, "timestamp", PeriodConfig(start=date(1997, 1, 3), end=date(1997, 1, 4))
    )
    assert sorted(chosen["timestamp"].to_list()) == [_day(3, 12), _day(4)]


def test_an_empty_period_says_what_there_is() -> None:
    with pytest.raises(DataError, match="No event is in 1999") as caught:
        in_period(EVENTS, "timestamp", PeriodConfig(start=date(1999, 1, 1), end=date(1999, 2, 1)))
    assert "1997-01-01" in caught.value.hint
    assert "1997-01-05" in caught.value.hint


def test_events_are_read_from_a_folder_or_named_as_missing(tmp_path: Path) -> None:
    recipe = MonitoringRecipe(events=EventsConfig(path=tmp_path))
    with pytest.raises(UsageError, match="no events in"):
        read_events(recipe)
    EVENTS.write_parquet(tmp_path / "part-0.parquet")
    assert read_events(recipe).equals(EVENTS)
    with pytest.raises(DataError, match="no column 'when'"):
        read_events(MonitoringRecipe(events=EventsConfig(path=tmp_path, event_time="when")))


def test_events_without_times_or_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    recipe = MonitoringRecipe(events=EventsConfig(path=path))
    EVENTS.with_columns(timestamp=None).write_parquet(path)
    with pytest.raises(DataError, match="'timestamp' is Null, not datetimes"):
        read_events(recipe)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_events(recipe)
    timeless = EVENTS.clear(2)
    with pytest.raises(DataError, match="No event is in") as caught:
        in_period(timeless, "timestamp", PeriodConfig(start=date(1997, 1, 1), end=date(1997, 1, 2)))
    assert caught.value.hint == "No event has a time."
