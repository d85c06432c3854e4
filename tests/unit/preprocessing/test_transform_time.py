"""Time: every value equals a loop over the rows that were there by then."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.errors import ConfigError, DataError
from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.operations.datetimes import easter, holidays_of
from tests.unit.preprocessing.tables import assert_same_everywhere

START = datetime(2026, 3, 1, tzinfo=UTC)


def events(rows: int = 240, seed: int = 0) -> pl.DataFrame:
    """Shuffled rows of five shops, with gaps and several rows at one timestamp."""
    rng = np.random.default_rng(seed)
    at = [START + timedelta(hours=int(h)) for h in rng.integers(0, 200, rows)]
    value = [None if rng.random() < 0.1 else float(x) for x in rng.normal(5, 3, rows)]
    return pl.DataFrame(
        {"shop": rng.integers(0, 5, rows), "at": at, "x": value},
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


def seen(rows: list[dict[str, Any]], row: dict[str, Any], window: timedelta | None) -> list[float]:
    """Values of the same shop by the row's timestamp."""
    return [
        one["x"]
        for one in rows
        if one["shop"] == row["shop"]
        and one["at"] <= row["at"]
        and (window is None or one["at"] > row["at"] - window)
        and one["x"] is not None
    ]


LOOPS: dict[str, Any] = {
    "count": len,
    "sum": sum,
    "mean": lambda v: sum(v) / len(v) if v else None,
    "min": lambda v: min(v, default=None),
    "max": lambda v: max(v, default=None),
    "std": lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else None,
}


def equal(found: pl.Series, wanted: list[Any]) -> None:
    assert found.to_list() == [
        None if one is None else pytest.approx(one, rel=1e-9, abs=1e-9) for one in wanted
    ]


@pytest.mark.parametrize("seed", range(3))
def test_windows_see_nothing_later(seed: int) -> None:
    frame = events(seed=seed)
    rows = frame.to_dicts()
    common = {"columns": ["x"], "time": "at", "by": ["shop"]}
    steps = [
        {"type": "rolling", "windows": ["24h", "3d"], "aggregations": list(LOOPS)} | common,
        {"type": "expanding", "aggregations": ["count", "sum", "mean", "min", "max"]} | common,
    ]
    prepared = fit(steps, frame).apply_frame(frame)
    assert prepared.select(frame.columns).equals(frame)
    for what, loop in LOOPS.items():
        for seconds in (86_400, 259_200):
            window = timedelta(seconds=seconds)
            wanted = [loop(seen(rows, row, window)) for row in rows]
            equal(prepared[f"x_{what}_{seconds}s"], wanted)
        if what != "std":
            equal(prepared[f"x_{what}_so_far"], [loop(seen(rows, row, None)) for row in rows])


def test_a_later_row_changes_nothing_before_it() -> None:
    frame = events()
    later = frame.with_columns(pl.when(pl.col("at") < START + timedelta(hours=100)).then("x"))
    common = {"columns": ["x"], "time": "at", "by": ["shop"]}
    steps = [
        {"type": "lags", "periods": [1, 2]} | common,
        {"type": "rolling", "windows": ["2d"]} | common,
        {"type": "expanding"} | common,
        {"type": "exponentially_weighted", "half_lives": ["1d"]} | common,
    ]
    a, b = (fit(steps, one).apply_frame(one) for one in (frame, later))
    before = pl.col("at") < START + timedelta(hours=100)
    assert a.filter(before).equals(b.filter(before))
    assert not a.drop("x").equals(b.drop("x"))


def test_lags_follow_timestamp_and_order() -> None:
    frame = events()
    step = {"type": "lags", "columns": ["x"], "time": "at", "by": ["shop"], "periods": [1, 3]}
    prepared = fit([step], frame).apply_frame(frame)
    rows = list(enumerate(frame.to_dicts()))
    for back in (1, 3):
        wanted = []
        for place, row in rows:
            past = sorted(
                (one["at"], i, one["x"])
                for i, one in rows
                if one["shop"] == row["shop"] and (one["at"], i) < (row["at"], place)
            )
            wanted.append(past[-back][2] if len(past) >= back else None)
        equal(prepared[f"x_lag_{back}"], wanted)
    single = {"type": "lags", "columns": ["x"], "time": "at"}
    assert fit([single], frame).apply_frame(frame)["x_lag_1"].null_count() >= 1


def test_a_decaying_mean_weighs_by_age() -> None:
    frame = events(120)
    common = {"columns": ["x"], "time": "at", "by": ["shop"]}
    step = {"type": "exponentially_weighted", "half_lives": ["12h"]} | common
    prepared = fit([step], frame).apply_frame(frame)
    rows = frame.to_dicts()
    wanted = []
    for row in rows:
        pairs = [
            (0.5 ** ((row["at"] - one["at"]) / timedelta(hours=12)), one["x"])
            for one in rows
            if one["shop"] == row["shop"] and one["at"] <= row["at"] and one["x"] is not None
        ]
        total = sum(weight for weight, _ in pairs)
        wanted.append(sum(w * x for w, x in pairs) / total if pairs else None)
    equal(prepared["x_ewm_43200s"], wanted)


def test_history_needs_the_whole_table(tmp_path: Path) -> None:
    frame = events(3000)
    steps = [
        {"type": "lags", "columns": ["x"], "time": "at", "by": ["shop"]},
        {"type": "standard_scaler", "columns": ["x_lag_1"]},
    ]
    fitted = fit(steps, frame)
    path = tmp_path / "rows.parquet"
    frame.write_parquet(path, row_group_size=100)
    assert fit(steps, path).apply_frame(frame).equals(fitted.apply_frame(frame))
    save(fitted, tmp_path / "a")
    assert load(tmp_path / "a").apply_frame(frame).equals(fitted.apply_frame(frame))
    with pytest.raises(DataError, match="one row cannot be prepared"):
        fitted.apply_row(frame.row(0, named=True))


def moments() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    at = [datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in
          rng.integers(0, 3 * 525_960, 300)]  # fmt: skip
    born = [None if rng.random() < 0.1 else date(1990, 1, 1) + timedelta(days=int(d)) for d in
            rng.integers(0, 12_000, 300)]  # fmt: skip
    return pl.DataFrame({"at": at, "born": born}, schema_overrides={"at": pl.Datetime("us", "UTC")})


def test_the_calendar_of_a_zone(tmp_path: Path) -> None:
    frame = moments()
    parts = ["year", "quarter", "month", "week", "day", "weekday", "day_of_year", "hour", "minute"]
    parts += ["is_weekend", "is_month_start", "is_month_end", "is_holiday"]
    step = {"type": "calendar", "parts": parts, "time_zone": "America/New_York", "holidays": ["us"]}
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    from zoneinfo import ZoneInfo

    for row in prepared.to_dicts():
        there = row["at"].astimezone(ZoneInfo("America/New_York"))
        assert (row["at_hour"], row["at_day"], row["at_weekday"]) == (
            there.hour,
            there.day,
            there.isoweekday(),
        )
        assert row["at_is_month_end"] == int((there + timedelta(days=1)).day == 1)
        assert row["at_is_holiday"] == int(there.date() in holidays_of(("us",), there.year))
        if row["born"] is None:
            assert row["born_year"] is None
        else:
            assert (row["born_week"], row["born_hour"]) == (row["born"].isocalendar().week, 0)


def test_holidays_by_rule() -> None:
    assert [easter(year) for year in (1961, 2000, 2024, 2026, 2038)] == [
        date(1961, 4, 2),
        date(2000, 4, 23),
        date(2024, 3, 31),
        date(2026, 4, 5),
        date(2038, 4, 25),
    ]
    rules = ("11-thu-4", "05-mon--1", "easter+39", "12-25", "2026-07-03", "02-29", "02-mon-5")
    assert holidays_of(rules, 2026) == {
        date(2026, 11, 26),
        date(2026, 5, 25),
        date(2026, 5, 14),
        date(2026, 12, 25),
        date(2026, 7, 3),
    }
    assert date(2024, 2, 29) in holidays_of(("02-29",), 2024)
    assert len(holidays_of(("us",), 2025)) == 11
    frame = moments()
    for bad in (["christmas"], ["13-01"]):
        with pytest.raises(ConfigError, match="holiday"):
            fit([{"type": "calendar", "parts": ["is_holiday"], "holidays": bad}], frame)
    with pytest.raises(ConfigError, match="go together"):
        fit([{"type": "calendar", "holidays": ["us"]}], frame)
    with pytest.raises(ConfigError, match="time zone"):
        fit([{"type": "calendar", "time_zone": "Mars/Olympus"}], frame)


def test_cycles_close(tmp_path: Path) -> None:
    frame = moments().with_columns(angle=pl.int_range(pl.len()).cast(pl.Float64))
    steps = [
        {"type": "cyclic", "columns": ["at"], "parts": ["hour", "weekday", "month", "day_of_year"]},
        {"type": "cyclic", "columns": ["angle"], "period": 360},
    ]
    prepared = assert_same_everywhere(fit(steps, frame), frame, tmp_path / "a")
    row = prepared.row(7, named=True)
    turn = 2 * math.pi * row["at"].hour / 24
    assert (row["at_hour_sin"], row["at_hour_cos"]) == pytest.approx(
        (math.sin(turn), math.cos(turn))
    )
    assert row["angle_cos"] == pytest.approx(math.cos(math.radians(7)))
    with pytest.raises(DataError, match="cyclic needs dates"):
        fit([{"type": "cyclic", "columns": ["angle"]}], frame)


def test_time_since(tmp_path: Path) -> None:
    frame = moments().with_columns(seen=pl.col("at").shift(1))
    steps = [
        {"type": "time_since", "columns": ["seen", "born"], "until": "at", "unit": "hours"},
        {"type": "time_since", "columns": ["at"], "moment": "2026-01-01T00:00:00Z"},
    ]
    prepared = assert_same_everywhere(fit(steps, frame), frame, tmp_path / "a")
    for row in prepared.to_dicts():
        gap = None if row["seen"] is None else (row["at"] - row["seen"]) / timedelta(hours=1)
        there = gap is not None and gap >= 0
        assert row["seen_hours_ago"] == (pytest.approx(gap) if there else None)
        end = datetime(2026, 1, 1, tzinfo=UTC)
        days = (end - row["at"]) / timedelta(days=1)
        assert row["at_days_ago"] == (pytest.approx(days) if days >= 0 else None)


def test_timestamps_without_a_zone_are_refused() -> None:
    frame = moments().with_columns(pl.col("at").dt.replace_time_zone(None))
    for step in (
        {"type": "calendar", "columns": ["at"]},
        {"type": "cyclic", "columns": ["at"]},
        {"type": "time_since", "columns": ["at"], "moment": "2026-01-01T00:00:00Z"},
    ):
        with pytest.raises(DataError, match="without a time zone"):
            fit([step], frame)
    fitted = fit([{"type": "calendar", "columns": ["at"]}], moments())
    with pytest.raises(DataError, match="without a time zone"):
        fitted.apply_row({"at": datetime(2026, 1, 1)})
    lags = {"type": "lags", "columns": ["x"], "time": "at"}
    with pytest.raises(DataError, match="lacks the timestamp"):
        late = events().with_columns(at=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
        fit([lags], late).apply_frame(late)
    with pytest.raises(DataError, match="lacks the column when"):
        fit([lags | {"time": "when"}], events())
