"""Each key of ``watch`` does what it says: with another value, another result."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import polars as pl
import pytest
from sqlalchemy import select

from sunloom.config import Settings
from sunloom.config.monitoring import (
    MonitoringRecipe,
    QualityBounds,
    TableReference,
    TrailingReference,
    WatchAlerts,
    WatchConfig,
    WatchReport,
    WatchSource,
    WeekdayReference,
)
from sunloom.core.alerts import list_alerts
from sunloom.core.database import open_database
from sunloom.monitoring.findings import distance
from sunloom.monitoring.histogram_store import HistogramRow, MonitorRow
from sunloom.monitoring.histograms import Bins
from sunloom.monitoring.service import keep_monitoring
from sunloom.monitoring.stored_results import (
    drift_over_time,
    latest_drift,
    latest_results,
    results_over_time,
)
from sunloom.monitoring.watch import run_watch

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def rows(days: int, per_day: int = 240, seed: int = 0, **columns: Any) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    count = days * per_day
    made = {f"f{n}": random.normal(0, 1, count) for n in range(3)}
    at = [START + DAY * n / per_day for n in range(count)]
    return pl.DataFrame(
        {"id": np.arange(count, dtype=float), "event_time": at, **made}
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")), **columns)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    rows(6).write_parquet(path)
    return path


def watched(settings: Settings, source: Path, **watch: Any) -> MonitoringRecipe:
    known = {"name": "orders", "source": {"path": str(source)}}
    known["reference"] = {"type": "trailing", "length": "1d"}  # type: ignore[assignment]
    config = WatchConfig.model_validate(known | watch)
    return MonitoringRecipe(paths=settings.paths, watch=config)


def features(settings: Settings) -> list[str]:
    return [one.feature for one in latest_drift(settings)[0].features]


def test_features_and_exclude(settings: Settings, source: Path) -> None:
    run_watch(watched(settings, source), START + 3 * DAY)
    assert features(settings) == ["f0", "f1", "f2"]
    run_watch(watched(settings, source, exclude=["f1"], name="a"), START + 3 * DAY)
    assert features(settings) == ["id", "f0", "f2"]
    run_watch(watched(settings, source, features=["f2", "id"], name="A"), START + 3 * DAY)
    assert features(settings) == ["f2", "id"]


@pytest.mark.parametrize(("window", "count"), [("6h", 11), ("12h", 5), ("1d", 2), ("3d", 0)])
def test_window(settings: Settings, source: Path, window: str, count: int) -> None:
    config = watched(settings, source, window=window, min_rows=20)
    result = run_watch(config, START + 3 * DAY)
    # What comes first has nothing before it.
    assert result.windows == count
    spans = [one.current.split("/") for one in drift_over_time(settings, "orders")]
    lengths = {datetime.fromisoformat(b) - datetime.fromisoformat(a) for a, b in spans}
    assert lengths <= {config.require_watch().window}


@pytest.mark.parametrize("cells", [4, 50])
def test_cells(settings: Settings, source: Path, cells: int) -> None:
    run_watch(watched(settings, source, cells=cells), START + 3 * DAY)
    with open_database(settings).session() as session:
        held = session.get(MonitorRow, "orders")
        assert held is not None
        assert {one.size for one in Bins.from_json(held.cells).features} == {cells}


@pytest.mark.parametrize("method", ["psi", "jensenshannon", "kl_div"])
def test_method_and_threshold(settings: Settings, source: Path, method: str) -> None:
    bound = 0.0123
    run_watch(watched(settings, source, method=method, threshold=bound), START + 2 * DAY)
    frame = pl.read_parquet(source)
    with open_database(settings).session() as session:
        held = session.get(MonitorRow, "orders")
        assert held is not None
        edges = Bins.from_json(held.cells).features[0].edges
    one, two = (
        np.bincount(np.searchsorted(edges, frame["f0"][at : at + 240], side="right"), minlength=20)
        for at in (0, 240)
    )
    found = latest_drift(settings)[0].features[0]
    assert (found.method, found.threshold) == (method, bound)
    assert found.value == pytest.approx(distance(method, one, two))


def test_false_alarms(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    late = pl.col("event_time") >= START + 5 * DAY
    rows(6).with_columns(f0=pl.col("f0") + 0.4 * late).write_parquet(path)
    found = {}
    for chance in (1e-9, 0.1):
        config = watched(settings, path, name=str(chance), false_alarms=chance, threshold=0.05)
        found[chance] = run_watch(config, START + 6 * DAY).drifted
    assert found == {1e-9: {}, 0.1: {"2026-01-10T00/2026-01-11T00": ["f0"]}}


def test_weeks_of_the_same_weekday(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "weeks.parquet"
    rows(28).write_parquet(path)
    for weeks, expected in ((1, 240), (3, 720)):
        rule = {"type": "same_weekday", "weeks": weeks}
        run_watch(watched(settings, path, reference=rule, name=f"w{weeks}"), START + 28 * DAY)
        newest = drift_over_time(settings, f"w{weeks}")[0]
        assert (newest.reference_rows, newest.current_rows) == (expected, 240)


@pytest.mark.parametrize(
    ("bound", "alert"),
    [
        ("null_rate_rise", "feature_null_rate"),
        ("default_rate_rise", "feature_default_rate"),
        ("outside_rate", "feature_range"),
    ],
)
def test_each_bound_of_quality(settings: Settings, tmp_path: Path, bound: str, alert: str) -> None:
    late = pl.col("event_time") >= START + 2 * DAY
    some = late & (pl.col("id") % 3 == 0)
    frame = rows(3).with_columns(
        f0=pl.when(~some).then("f0"),
        f1=pl.when(some).then(0.5).otherwise("f1"),
        f2=pl.when(some).then(99.0).otherwise("f2"),
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    rows(2).write_parquet(tmp_path / "normal.parquet")
    normal = {"type": "table", "path": str(tmp_path / "normal.parquet")}
    everything = {"feature_null_rate", "feature_default_rate", "feature_range"}
    for name, quality, raised in (("all", {}, everything), ("one", {bound: 0.9}, {alert})):
        config = watched(
            settings, tmp_path / "rows.parquet", name=name, quality=quality, threshold=50.0,
            defaults={"f1": 0.5}, reference=normal,
        )  # fmt: skip
        run_watch(config, START + 3 * DAY)
        mine = {a.name for a in list_alerts(settings) if a.labels["monitor"] == name}
        assert mine == (raised if name == "all" else everything - raised)


def test_the_range_of_a_trailing_reference_is_that_of_the_past(
    settings: Settings, tmp_path: Path
) -> None:
    late = pl.col("event_time") >= START + 2 * DAY
    some = late & (pl.col("id") % 5 == 0)
    frame = rows(3).with_columns(
        f0=pl.when(some).then(99.0).otherwise("f0"),
        f1=pl.when(some).then(pl.lit("new")).otherwise(pl.lit("old")),
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    run_watch(watched(settings, tmp_path / "rows.parquet", threshold=50.0), START + 3 * DAY)
    raised = {(one.name, one.labels["feature"]) for one in list_alerts(settings)}
    assert raised == {("feature_range", "f0"), ("feature_range", "f1")}


def test_catch_up(settings: Settings, source: Path) -> None:
    assert run_watch(watched(settings, source, catch_up=2), START + 6 * DAY).windows == 2
    windows = [one.window[:10] for one in results_over_time(settings, "quality", "orders")]
    assert windows == ["2026-01-10", "2026-01-09"]


@pytest.mark.parametrize(("late", "again"), [("1h", 10), ("5h", 50)])
def test_late(settings: Settings, source: Path, late: str, again: int) -> None:
    config = watched(settings, source, late=late)
    run_watch(config, START + 3 * DAY)
    assert run_watch(config, START + 4 * DAY).rows == 240 + again


def test_keep_hours_and_keep_days(settings: Settings, source: Path) -> None:
    config = watched(settings, source, keep_hours="2d", keep_days="4d")
    run_watch(config, START + 6 * DAY)
    with open_database(settings).session() as session:
        grains = Counter(
            (row.grain, (row.start - START) // DAY) for row in session.scalars(select(HistogramRow))
        )
    # Two days ago by day, two by hour, and what is older than four days is gone.
    assert grains == {("day", 2): 1, ("day", 3): 1, ("hour", 4): 24, ("hour", 5): 24}
    assert len(results_over_time(settings, "quality", "orders")) == 4
    assert run_watch(config, START + 6 * DAY).windows == 0


def test_hours_are_kept_as_long_as_a_weekday_is_compared_by_them(
    settings: Settings, tmp_path: Path
) -> None:
    # At night other values than by day: against whole days every window would drift.
    table = rows(24).with_columns(
        pl.when(pl.col("event_time").dt.hour() < 12).then(pl.col("f0") + 9).otherwise("f0")
    )
    table.write_parquet(tmp_path / "rows.parquet")
    config = watched(
        settings, tmp_path / "rows.parquet", window="12h", keep_hours="2d", catch_up=2,
        reference=WeekdayReference(weeks=2), min_rows=100,
    )  # fmt: skip
    run_watch(config, START + 22 * DAY)
    result = run_watch(config, START + 23 * DAY)
    assert (result.windows, result.drifted) == (2, {})
    with open_database(settings).session() as session:
        merged = [row.start for row in session.scalars(select(HistogramRow)) if row.grain == "day"]
    assert max(merged) < START + 23 * DAY - 15 * DAY


def test_max_lag(settings: Settings, source: Path) -> None:
    for name, lag, raised in (("a", "13h", ["freshness"]), ("b", "15h", []), ("c", None, [])):
        config = watched(settings, source, name=name, max_lag=lag)
        result = run_watch(config, START + 6 * DAY + 14 * HOUR, ("performance",))
        assert result.raised == raised
    (figures,) = [o for o in latest_results(settings, "performance") if o.monitor == "a"]
    assert 14 * 3600 < figures.data["freshness_lag_s"] < 14.2 * 3600


class ThreePauses(Event):
    """Is set once three pauses have been waited for, and keeps their lengths in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        if len(self.pauses) == 3:
            self.set()
        return super().wait(0)


def test_every_is_the_pause_of_the_service(settings: Settings, source: Path) -> None:
    stop = ThreePauses()
    service = keep_monitoring(watched(settings, source), timedelta(hours=1), stop)
    assert (service.rounds, service.failed) == (3, 0)
    # A round's own time is taken off: rounds begin every hour.
    assert all(3_500 < pause < 3_600 for pause in stop.pauses)


def test_the_files_of_these_tests_know_every_key() -> None:
    folder = Path(__file__).parent
    texts = [path.read_text() for path in folder.glob("test_monitoring_watch*.py")]
    integration = folder.parents[1] / "integration"
    texts += [path.read_text() for path in integration.glob("test_monitoring_*.py")]
    models = (
        WatchConfig, WatchSource, WatchReport, WatchAlerts, QualityBounds, TableReference,
        TrailingReference, WeekdayReference,
    )  # fmt: skip
    for model in models:
        quoted = [n for n in model.model_fields if not any(n in text for text in texts)]
        assert quoted == []
