"""A watched table: one shift among 200 features is one alert, and nothing moved is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.config import Settings
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.core.alerts import list_alerts
from sunloom.monitoring.findings import (
    Rate,
    counts_p_value,
    distance,
    drift_findings,
    rates_p_value,
)
from sunloom.monitoring.histograms import Bins, FeatureBins, Histogram
from sunloom.monitoring.prometheus import render_monitoring
from sunloom.monitoring.stored_results import latest_drift, latest_results, results_over_time
from sunloom.monitoring.watch import run_watch

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def _rows(
    days: int, per_day: int, features: int, seed: int = 0, first: datetime = START
) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    count = days * per_day
    at = [first + DAY * n / per_day for n in range(count)]
    columns = {f"f{n:03}": random.normal(0, 1, count) for n in range(features)}
    return pl.DataFrame({"id": np.arange(count), "event_time": at, **columns}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC"))
    )


def recipe(settings: Settings, path: Path, **watch: Any) -> MonitoringRecipe:
    known = {"name": "orders", "source": {"path": str(path)}}
    config = WatchConfig.model_validate(known | watch)
    return MonitoringRecipe(paths=settings.paths, watch=config)


def table(folder: Path, name: str, frame: pl.DataFrame) -> dict[str, str]:
    frame.write_parquet(folder / name)
    return {"type": "table", "path": str(folder / name)}


def _shifted(frame: pl.DataFrame, name: str, by: float, since: datetime) -> pl.DataFrame:
    moved = pl.when(pl.col("event_time") >= since).then(pl.col(name) + by).otherwise(pl.col(name))
    return frame.with_columns(moved.alias(name))


def test_one_shift_among_200_features_is_one_alert_and_fifty_calm_windows_are_none(
    settings: Settings, tmp_path: Path
) -> None:
    reference = table(tmp_path, "training.parquet", _rows(10, 1_000, 200, seed=1))
    frame = _rows(51, 400, 200, seed=2)
    source = tmp_path / "orders.parquet"
    watched = recipe(settings, source, reference=reference)
    frame.write_parquet(source)

    calm = run_watch(watched, START + 50 * DAY)
    assert (calm.windows, calm.drifted, calm.raised) == (50, {}, [])
    assert list_alerts(settings) == []

    _shifted(frame, "f137", 0.8, START + 50 * DAY).write_parquet(source)
    moved = run_watch(watched, START + 51 * DAY)
    assert moved.windows == 1
    assert moved.raised == ["f137"]
    (alert,) = list_alerts(settings)
    assert (alert.name, alert.labels) == (
        "feature_drift",
        {"monitor": "orders", "feature": "f137"},
    )
    assert "f137 of orders drifted: psi" in alert.message


@pytest.mark.parametrize("rows", [100, 300, 2_000])
def test_the_false_alarm_rate_is_kept_whatever_the_rows(rows: int) -> None:
    """20 bins, 200 features, 100 windows of so few rows that psi passes 0.1 by chance."""
    random = np.random.default_rng(rows)
    bins = Bins(
        tuple(
            FeatureBins(f"f{n}", "edges", tuple(float(e) for e in range(19)), (), 0.0, 1.0)
            for n in range(200)
        )
    )
    config = WatchConfig.model_validate(
        {"name": "w", "source": {"path": "x"}, "false_alarms": 0.05, "threshold": 0.001}
    )
    before = _counts(random, 10_000, bins)
    alarms = sum(
        any(
            one.flagged for one in drift_findings(before, _counts(random, rows, bins), bins, config)
        )
        for _ in range(100)
    )
    # 5 of 100 are to be expected; 15 and more would come once in 5,000 such tests.
    assert alarms < 15


def _counts(random: Any, rows: int, bins: Bins) -> Histogram:
    counts = random.multinomial(rows, [1 / 20] * 20, size=len(bins.features))
    tallies = np.zeros((len(bins.features), 4), dtype=np.int64)
    tallies[:, 0] = rows
    return Histogram(counts.reshape(-1), tallies, np.zeros((len(bins.features), 2)))


def test_few_rows_alone_raise_nothing_however_large_psi(settings: Settings, tmp_path: Path) -> None:
    reference = table(tmp_path, "t.parquet", _rows(2, 1_000, 50, seed=1))
    source = tmp_path / "rows.parquet"
    _rows(20, 60, 50, seed=2).write_parquet(source)
    result = run_watch(recipe(settings, source, reference=reference, min_rows=50), START + 20 * DAY)
    values = [one.value for one in latest_drift(settings)[0].features]
    assert max(values) > 0.3
    assert (result.windows, result.drifted) == (20, {})
    skipped = run_watch(
        recipe(settings, source, name="strict", reference=reference), START + 20 * DAY
    )
    assert (skipped.windows, skipped.skipped) == (0, 20)


def test_hysteresis_deduplication_and_resolution(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    frame = _rows(8, 500, 3, seed=4)
    hours = {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0, 6: 0.0, 7: 0.0}
    by = pl.col("event_time").sub(START).dt.total_days().replace_strict(hours)
    frame.with_columns(f001=pl.col("f001") + by).write_parquet(source)
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 3, seed=5))
    rules = {"raise_after": 2, "clear_after": 3, "severity": "critical"}
    watched = recipe(settings, source, reference=reference, alerts=rules)

    def day(number: int) -> list[tuple[str, int]]:
        run_watch(watched, START + number * DAY)
        return [(one.status, one.count) for one in list_alerts(settings)]

    assert day(2) == []
    assert day(3) == [("open", 1)]
    assert list_alerts(settings)[0].severity == "critical"
    assert day(4) == [("open", 2)]
    assert day(6) == [("open", 2)]
    assert day(7) == [("resolved", 2)]
    assert day(8) == [("resolved", 2)]


def test_a_value_just_below_the_bound_does_not_count_as_calm(
    settings: Settings, tmp_path: Path
) -> None:
    frame = _rows(1, 4_000, 1, seed=1)
    reference = table(tmp_path, "t.parquet", frame)
    source = tmp_path / "rows.parquet"
    path = [1.0, 0.4, 0.4, 0.4]
    days = [
        _shifted(_rows(1, 4_000, 1, seed=n, first=START + n * DAY), "f000", by, START)
        for n, by in enumerate(path)
    ]
    pl.concat(days).write_parquet(source)
    value = 0.16  # of a shift by 0.4
    for share, status in ((0.5, "open"), (1.0, "resolved")):
        name = f"share {share}"
        alerts = {"clear_share": share, "clear_after": 1}
        watched = recipe(
            settings, source, name=name, reference=reference, alerts=alerts, threshold=value * 1.3
        )
        run_watch(watched, START + 4 * DAY)
        mine = [one for one in list_alerts(settings) if one.labels["monitor"] == name]
        assert [one.status for one in mine] == [status]


def test_when_most_features_move_the_set_is_one_alert(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    frame = _rows(3, 500, 12, seed=4)
    for number in range(8):
        frame = _shifted(frame, f"f{number:03}", 2.0, START + 2 * DAY)
    frame.write_parquet(source)
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 12, seed=5))
    run_watch(recipe(settings, source, reference=reference), START + 3 * DAY)
    (alert,) = list_alerts(settings)
    assert (alert.name, alert.severity, alert.value) == (
        "feature_set_drift",
        "critical",
        8.0,
    )
    assert "8 of 12 features of orders drifted" in alert.message
    apart = recipe(settings, source, name="b", reference=reference, alerts={"set_share": 0.9})
    run_watch(apart, START + 3 * DAY)
    assert len([one for one in list_alerts(settings) if one.labels["monitor"] == "b"]) == 8


def test_quality_is_kept_over_time_and_raises(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    last = pl.col("event_time") >= START + 2 * DAY
    some = pl.col("id") % 5 == 0
    frame = _rows(3, 500, 4, seed=4).with_columns(
        f000=pl.when(last & some).then(None).otherwise("f000"),
        f001=pl.when(last & some).then(7.0).otherwise("f001"),
        f002=pl.when(last & (pl.col("id") % 40 == 0)).then(99.0).otherwise("f002"),
    )
    frame.write_parquet(source)
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 4, seed=5))
    watched = recipe(
        settings, source, reference=reference, defaults={"f001": 7.0}, method="jensenshannon",
        threshold=0.9,
    )  # fmt: skip
    result = run_watch(watched, START + 3 * DAY)
    raised = {(one.name, one.labels["feature"]) for one in list_alerts(settings)}
    assert raised == {
        ("feature_null_rate", "f000"),
        ("feature_default_rate", "f001"),
        ("feature_range", "f001"),
        ("feature_range", "f002"),
    }
    assert len(result.raised) == 4
    (latest,) = latest_results(settings, "quality")
    rates = {one["feature"]: one for one in latest.data["features"]}
    assert rates["f000"]["null_rate"] == pytest.approx(0.2)
    assert rates["f001"]["default_rate"] == pytest.approx(0.2)
    assert rates["f002"]["maximum"] == 99.0
    assert rates["f003"]["null_rate"] == 0.0
    assert len(results_over_time(settings, "quality", "orders")) == 3
    loose = {"null_rate_rise": 0.5, "default_rate_rise": 0.5, "outside_rate": 0.5}
    calm = recipe(settings, source, name="loose", reference=reference, quality=loose, threshold=9.0)
    assert run_watch(calm, START + 3 * DAY).raised == []


def test_values_outside_the_range_are_part_of_drift(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    _shifted(_rows(3, 500, 3, seed=4), "f001", 30.0, START + 2 * DAY).write_parquet(source)
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 3, seed=5))
    run_watch(recipe(settings, source, reference=reference), START + 3 * DAY)
    assert [one.name for one in list_alerts(settings)] == ["feature_drift"]


def test_the_trailing_reference(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    _shifted(_rows(10, 500, 3, seed=4), "f001", 2.0, START + 5 * DAY).write_parquet(source)
    trailing = {"type": "trailing", "length": "3d"}
    result = run_watch(recipe(settings, source, reference=trailing), START + 10 * DAY)
    # The first window has nothing before it; after three days the new normal is normal.
    assert result.skipped == 1
    assert list(result.drifted) == [f"2026-01-{10 + n}T00/2026-01-{11 + n}T00" for n in range(3)]


def test_the_same_weekday(settings: Settings, tmp_path: Path) -> None:
    frame = _rows(28, 400, 2, seed=4)
    weekend = pl.col("event_time").dt.weekday() >= 6
    source = tmp_path / "rows.parquet"
    frame.with_columns(f001=pl.col("f001") + 3 * weekend).write_parquet(source)
    weekday = {"type": "same_weekday", "weeks": 2}
    assert run_watch(recipe(settings, source, reference=weekday), START + 28 * DAY).drifted == {}
    trailing = {"type": "trailing", "length": "7d"}
    other = recipe(settings, source, name="t", reference=trailing)
    assert len(run_watch(other, START + 28 * DAY).drifted) >= 6


def test_a_round_counts_new_rows_only_and_late_ones_again(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 2, seed=5))
    frame = _rows(3, 480, 2, seed=4)
    watched = recipe(settings, folder, reference=reference)
    frame.filter(pl.col("id") < 900).write_parquet(folder / "a.parquet")
    first = run_watch(watched, START + 2 * DAY)
    assert (first.rows, first.windows) == (900, 2)
    frame.filter(pl.col("id") >= 900).write_parquet(folder / "b.parquet")
    second = run_watch(watched, START + 3 * DAY)
    # Two hours before midnight are read again: 40 rows of them, and the day.
    assert (second.rows, second.windows) == (40 + 480, 1)
    assert sum(one.data["rows"] for one in results_over_time(settings, "quality", "orders")) == (
        480 + 420 + 480
    )
    third = run_watch(watched, START + 3 * DAY)
    assert third.windows == 0


def test_a_source_without_event_time_is_one_window(settings: Settings, tmp_path: Path) -> None:
    reference = table(tmp_path, "t.parquet", _rows(4, 1_000, 3, seed=5).drop("event_time"))
    source = tmp_path / "rows.csv"
    moved = _shifted(_rows(1, 500, 3, seed=4), "f001", 2.0, START).drop("event_time")
    moved.write_csv(source)
    whole = {"path": str(source), "event_time": None}
    watched = recipe(settings, source, source=whole, reference=reference)
    result = run_watch(watched, START)
    assert (result.rows, result.windows, result.raised) == (500, 1, ["f001"])
    assert run_watch(watched, START).raised == ["f001"]
    assert [one.count for one in list_alerts(settings)] == [2]


def test_lag_is_measured_and_raises(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    frame = _rows(2, 480, 1, seed=1)
    frame.write_parquet(source)
    newest = frame["event_time"].max()
    assert isinstance(newest, datetime)
    watched = recipe(settings, source, max_lag="6h")
    late = run_watch(watched, newest + timedelta(hours=7))
    assert late.performance.freshness_lag_s == 7 * 3600
    (alert,) = list_alerts(settings, "open")
    assert (alert.name, alert.threshold) == ("feature_freshness", 6 * 3600)
    (figures,) = latest_results(settings, "performance")
    assert figures.data["rows"] == 960
    assert figures.data["rows_per_s"] > 0
    fresh = _rows(1, 480, 1, seed=2, first=newest + timedelta(minutes=1))
    pl.concat([frame, fresh]).write_parquet(source)
    run_watch(watched, newest + timedelta(days=1))
    assert list_alerts(settings, "open") == []


def test_kinds_run_apart(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    _rows(3, 500, 2, seed=4).write_parquet(source)
    watched = recipe(settings, source, reference={"type": "trailing", "length": "1d"})
    run_watch(watched, START + 3 * DAY, ("quality",))
    assert latest_drift(settings) == []
    assert len(results_over_time(settings, "quality", "orders")) == 2
    assert run_watch(watched, START + 3 * DAY, ("performance",)).windows == 0
    assert len(latest_results(settings, "performance")) == 1


def test_metrics_in_prometheus_form(settings: Settings, tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    assert "alerts_open" in render_monitoring(settings)
    source = tmp_path / "rows.parquet"
    _shifted(_rows(3, 500, 2, seed=4), "f001", 2.0, START + 2 * DAY).write_parquet(source)
    watched = recipe(settings, source, name='a "b"', reference={"type": "trailing", "length": "1d"})
    run_watch(watched, START + 3 * DAY)
    samples = {
        (sample.name, sample.labels.get("feature") or sample.labels.get("severity")): sample.value
        for family in text_string_to_metric_families(render_monitoring(settings))
        for sample in family.samples
    }
    assert samples["sunloom_feature_drift", "f001"] > 1
    assert samples["sunloom_feature_drift", "f000"] < 0.2
    assert samples["sunloom_feature_null_rate", "f000"] == 0
    assert samples["sunloom_alerts_open", "warning"] == 1
    assert samples["sunloom_feature_freshness_lag_seconds", None] > 0


def test_statistics_by_hand() -> None:
    before, after = np.array([50, 50]), np.array([80, 20])
    assert distance("psi", before, after) == pytest.approx(0.3 * np.log(1.6) + 0.3 * np.log(2.5))
    assert distance("kl_div", before, after) == pytest.approx(
        0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    )
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import chi2_contingency

    assert distance("jensenshannon", before, after) == pytest.approx(
        jensenshannon([0.5, 0.5], [0.8, 0.2])
    )
    found = chi2_contingency(np.stack([before, after]), correction=False)
    assert counts_p_value(before, after) == pytest.approx(found.pvalue)
    corrected = chi2_contingency(np.array([[5, 95], [20, 80]]), correction=True)
    assert rates_p_value(Rate(5, 100), Rate(20, 100)) == pytest.approx(corrected.pvalue)
    assert counts_p_value(before, before) == 1.0
    assert rates_p_value(Rate(0, 10), Rate(0, 10)) == 1.0


def test_what_cannot_be_compared_raises_an_alert_and_the_rest_is_judged(
    settings: Settings, tmp_path: Path
) -> None:
    normal = _rows(2, 500, 6, seed=1).with_columns(f005=pl.lit(None, dtype=pl.Float64))
    reference = table(tmp_path, "training.parquet", normal)
    broken = (
        _rows(1, 500, 6, seed=2)
        .drop("f001")
        .with_columns(
            pl.col("f002").cast(pl.String),
            pl.lit(float("inf")).alias("f003"),
            pl.col("f004") + 3,
        )
    )
    broken.write_parquet(tmp_path / "rows.parquet")
    names = [f"f{n:03}" for n in range(6)]
    watched = recipe(settings, tmp_path / "rows.parquet", reference=reference, features=names)
    (drifted,) = run_watch(watched, START + DAY).drifted.values()
    assert drifted == names[1:]
    (report,) = latest_drift(settings)
    entries = {feature.feature: feature for feature in report.features}
    assert report.drifted_features == 5
    assert entries["f001"].reason.endswith("cannot be compared: no value in these rows")
    assert entries["f005"].reason.endswith("cannot be compared: no value in the reference")
    uncompared = [name for name in names if entries[name].value is None]
    assert uncompared == ["f001", "f002", "f005"]
    (alert,) = [one for one in list_alerts(settings, "open") if one.name == "feature_set_drift"]
    assert "f001 (no value)" in alert.message
    gauges = render_monitoring(settings).splitlines()
    distances = [line for line in gauges if line.startswith("sunloom_feature_drift{")]
    assert len(distances) == 3


def test_a_value_that_is_missing_by_chance_raises_nothing() -> None:
    bins = Bins((FeatureBins("rare", "values", values=(1.0,), minimum=1.0, maximum=1.0),))

    def counted(rows: int, values: int) -> Histogram:
        tallies = np.array([[rows, rows - values, 0, 0]])
        return Histogram(np.array([values, 0]), tallies, np.array([[1.0, 1.0]]))

    config = WatchConfig.model_validate({"name": "m", "source": {"path": "rows"}})
    (rare,) = drift_findings(counted(10_000, 100), counted(100, 0), bins, config)
    assert (rare.value, rare.flagged, rare.calm) == (None, False, False)
    (gone,) = drift_findings(counted(10_000, 9_000), counted(100, 0), bins, config)
    assert (gone.value, gone.flagged) == (None, True)
    (never,) = drift_findings(counted(10_000, 0), counted(100, 0), bins, config)
    assert never.flagged
