"""Counts merge: parts count as the whole, in memory, in bytes and in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.errors import DataError
from sunloom.monitoring.histogram_store import HistogramStore
from sunloom.monitoring.histograms import (
    DEFAULT,
    MISSING,
    OUTSIDE,
    ROWS,
    Bins,
    Histogram,
    build_bins,
    count_rows,
    count_rows_by_group,
    empty_histogram,
    merge_histograms,
)
from sunloom.monitoring.windows import TimeSpan

RANDOM = np.random.default_rng(3)
REFERENCE = pl.DataFrame(
    {
        "size": RANDOM.normal(10, 3, 3_000),
        "few": RANDOM.integers(0, 6, 3_000),
        "kind": RANDOM.choice(["a", "b", "c"], 3_000),
        "on": RANDOM.random(3_000) < 0.3,
    }
)
NAMES = ["size", "few", "kind", "on"]
BINS = build_bins(REFERENCE, NAMES, 20, {"few": 0.0, "kind": "c"})
HOUR = timedelta(hours=1)
START = datetime(2026, 1, 5, tzinfo=UTC)

ROW = st.fixed_dictionaries(
    {
        "size": st.none() | st.floats(allow_nan=True, allow_infinity=True),
        "few": st.none() | st.integers(-2, 8),
        "kind": st.none() | st.sampled_from(["a", "b", "c", "new", "\0other"]),
        "on": st.none() | st.booleans(),
    }
)
TYPES = {"size": pl.Float64, "few": pl.Int64, "kind": pl.String, "on": pl.Boolean}


def _frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TYPES)


def same(one: Histogram, other: Histogram) -> bool:
    return (
        np.array_equal(one.counts, other.counts)
        and np.array_equal(one.tallies, other.tallies)
        and np.array_equal(one.extremes, other.extremes, equal_nan=True)
    )


def test_bins_hold_equally_many_rows_or_one_value() -> None:
    whole = count_rows(REFERENCE, BINS)
    assert [len(whole.feature_counts(BINS, n)) for n in range(4)] == [20, 7, 4, 3]
    assert set(whole.feature_counts(BINS, 0)) == {150}
    assert list(whole.feature_counts(BINS, 1)) == [
        *REFERENCE["few"].value_counts().sort("few")["count"],
        0,
    ]
    assert whole.feature_counts(BINS, 2).sum() == 3_000
    assert list(whole.tallies[:, OUTSIDE]) == [0, 0, 0, 0]
    assert whole.extremes[0].tolist() == [REFERENCE["size"].min(), REFERENCE["size"].max()]


def test_a_value_that_many_rows_share_has_one_bin() -> None:
    column = pl.DataFrame({"x": [0.0] * 900 + [float(n) for n in range(1, 101)]})
    bins = build_bins(column, ["x"], 20)
    counts = count_rows(column, bins).feature_counts(bins, 0)
    assert counts[0] == 900 + 50 or counts.max() >= 900
    assert counts.sum() == 1_000


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ROW, max_size=12), min_size=1, max_size=5))
def test_merged_parts_are_a_single_pass(parts: list[list[dict[str, object]]]) -> None:
    whole = count_rows(_frame([row for part in parts for row in part]), BINS)
    in_parts = merge_histograms([count_rows(_frame(part), BINS) for part in parts], BINS)
    assert same(whole, in_parts)
    assert same(Histogram.decode(whole.encode(), BINS), whole)
    group = np.array([n for n, part in enumerate(parts) for _ in part], dtype=np.int64)
    frame = _frame([row for part in parts for row in part])
    by_group = count_rows_by_group(frame, BINS, group, len(parts))
    assert all(
        same(one, count_rows(_frame(part), BINS)) for one, part in zip(by_group, parts, strict=True)
    )


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(ROW, max_size=40))
def test_tallies_are_what_a_loop_counts(rows: list[dict[str, object]]) -> None:
    tallies = count_rows(_frame(rows), BINS).tallies
    size, few, kind = ([row[name] for row in rows] for name in ("size", "few", "kind"))
    low, high = REFERENCE["size"].min(), REFERENCE["size"].max()
    given_sizes = [v for v in size if isinstance(v, float) and v == v]
    assert tallies[0, MISSING] == len(rows) - len(given_sizes)
    assert tallies[0, OUTSIDE] == sum(v < low or v > high for v in given_sizes)  # type: ignore[operator]
    assert tallies[1, DEFAULT] == few.count(0)
    assert tallies[1, OUTSIDE] == sum(v is not None and not 0 <= v <= 5 for v in few)  # type: ignore[operator]
    assert tallies[2, DEFAULT] == kind.count("c")
    assert tallies[2, OUTSIDE] == sum(v is not None and v not in ("a", "b", "c") for v in kind)
    assert list(tallies[:, ROWS]) == [len(rows)] * 4


def test_bins_round_trip_as_json_and_have_an_identity() -> None:
    again = Bins.from_json(BINS.to_json())
    assert again == BINS
    assert again.id == BINS.id
    assert build_bins(REFERENCE, NAMES, 10).id != BINS.id


@pytest.mark.parametrize(
    "frame",
    [REFERENCE.drop("few"), REFERENCE.with_columns(pl.col("few").cast(pl.String))],
)
def test_a_column_that_is_gone_or_of_another_type_counts_as_missing(frame: pl.DataFrame) -> None:
    whole, counted = count_rows(REFERENCE, BINS), count_rows(frame, BINS)
    assert counted.tallies[1].tolist() == [3_000, 3_000, 0, 0]
    assert not counted.feature_counts(BINS, 1).any()
    for number in (0, 2, 3):
        assert np.array_equal(
            counted.feature_counts(BINS, number), whole.feature_counts(BINS, number)
        )


def test_numbers_are_texts_that_the_reference_does_not_have() -> None:
    counted = count_rows(REFERENCE.with_columns(kind=pl.lit(1)), BINS)
    assert counted.tallies[2].tolist() == [3_000, 0, 0, 3_000]


def test_a_column_without_bins_is_named() -> None:
    for column in (pl.Series("x", [None], dtype=pl.Float64), pl.Series("x", [START])):
        with pytest.raises(DataError, match="'x'"):
            build_bins(column.to_frame(), ["x"], 20)


def _hours(count: int) -> dict[datetime, Histogram]:
    return {START + n * HOUR: count_rows(REFERENCE.slice(n * 50, 50), BINS) for n in range(count)}


def test_history_keeps_hours_and_merges_them_into_days(settings: Settings) -> None:
    history = HistogramStore(open_database(settings), "orders", BINS)
    hours = _hours(60)
    history.put(hours)
    history.put(hours)
    assert same(history.read([TimeSpan(START, START + 60 * HOUR)]), count_rows(REFERENCE, BINS))
    some = merge_histograms(list(hours.values())[3:7], BINS)
    assert same(history.read([TimeSpan(START + 3 * HOUR, START + 7 * HOUR)]), some)
    assert history.roll_up(START + 49 * HOUR) == 2
    assert same(history.read([TimeSpan(START, START + 60 * HOUR)]), count_rows(REFERENCE, BINS))
    day = merge_histograms(list(hours.values())[24:48], BINS)
    assert same(history.read([TimeSpan(START + 24 * HOUR, START + 48 * HOUR)]), day)
    assert history.roll_up(START + 49 * HOUR) == 0
    history.delete_before(START + 24 * HOUR)
    assert history.read([TimeSpan(START, START + 24 * HOUR)]).rows == 0
    assert same(history.read([TimeSpan(START + 24 * HOUR, START + 48 * HOUR)]), day)


def test_counts_on_other_bins_are_not_read(settings: Settings) -> None:
    database = open_database(settings)
    HistogramStore(database, "orders", BINS).put(_hours(3))
    other = HistogramStore(database, "orders", build_bins(REFERENCE, NAMES, 10))
    assert other.read([TimeSpan(START, START + 3 * HOUR)]).rows == 0
    assert same(other.read_reference(), empty_histogram(other.bins))
    other.put_reference(count_rows(REFERENCE, other.bins))
    assert other.read_reference().rows == 3_000
    with pytest.raises(DataError, match="does not fit"):
        Histogram.decode(empty_histogram(BINS).encode(), other.bins)
