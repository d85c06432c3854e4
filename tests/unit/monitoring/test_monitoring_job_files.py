"""What ``jobs/monitor_*.py`` hand to the library, and what they give back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs import monitor_drift, monitor_performance, monitor_quality, monitor_service
from sunloom.config import Settings
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.monitoring.service import ServiceResult
from sunloom.monitoring.stored_results import latest_drift, latest_results

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def recipe(settings: Settings, tmp_path: Path) -> MonitoringRecipe:
    count = 3 * 240
    at = [TODAY - 3 * DAY + DAY * n / 240 for n in range(count)]
    x = [float(n % 97) + 60 * (n >= 2 * 240) for n in range(count)]
    pl.DataFrame({"event_time": at, "x": x}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC"))
    ).write_parquet(tmp_path / "rows.parquet")
    watch = {
        "name": "orders",
        "source": {"path": str(tmp_path / "rows.parquet")},
        "reference": {"type": "trailing", "length": "1d"},
        "every": "7m",
    }
    return MonitoringRecipe(paths=settings.paths, watch=WatchConfig.model_validate(watch))


def test_drift(recipe: MonitoringRecipe) -> None:
    outcome = monitor_drift.monitor(recipe)
    assert (outcome.metrics["windows"], outcome.metrics["raised"]) == (2, ["x"])
    assert outcome.artifacts == {}
    assert latest_drift(recipe)[0].drifted_features == 1
    assert latest_results(recipe, "quality") == []
    assert latest_results(recipe, "performance") == []


def test_quality(recipe: MonitoringRecipe) -> None:
    outcome = monitor_quality.monitor(recipe)
    assert (outcome.metrics["windows"], outcome.metrics["drifted"]) == (2, {})
    assert latest_results(recipe, "quality")[0].data["rows"] == 240
    assert latest_drift(recipe) == []


def test_performance(recipe: MonitoringRecipe) -> None:
    outcome = monitor_performance.monitor(recipe)
    assert (outcome.metrics["windows"], outcome.metrics["rows"]) == (0, 720)
    assert outcome.metrics["freshness_lag_s"] > 0


def test_the_service_goes_on_at_the_recipes_pace(
    recipe: MonitoringRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[timedelta] = []

    def keep(_recipe: Any, every: timedelta) -> ServiceResult:
        pauses.append(every)
        return ServiceResult(rounds=1, failed=0, raised=[])

    monkeypatch.setattr(monitor_service, "keep_monitoring", keep)
    assert monitor_service.monitor(recipe).metrics == {"rounds": 1, "failed": 0, "raised": []}
    assert pauses == [timedelta(minutes=7)]
