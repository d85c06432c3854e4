"""A report that cannot be made is an error, and costs no alert."""

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
from sunloom.errors import DataError
from sunloom.monitoring import evidently_report as sampled
from sunloom.monitoring.watch import run_watch

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def test_an_error_of_evidently_is_raised_after_the_alerts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_words: Any) -> None:
        raise ValueError("no bins")

    monkeypatch.setattr(sampled, "run_evidently", broken)
    at = [START + DAY * n / 500 for n in range(1_500)]
    x = np.random.default_rng(1).normal(np.repeat([0.0, 0.0, 2.0], 500))
    pl.DataFrame({"event_time": at, "x": x}).with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC"))
    ).write_parquet(tmp_path / "rows.parquet")
    watch = {
        "name": "orders",
        "source": {"path": str(tmp_path / "rows.parquet")},
        "reference": {"type": "trailing", "length": "1d"},
        "report": {"rows": 100},
    }
    recipe = MonitoringRecipe(paths=settings.paths, watch=WatchConfig.model_validate(watch))
    with pytest.raises(DataError, match=r"Evidently cannot compare .* ValueError: no bins"):
        run_watch(recipe, START + 3 * DAY)
    assert [one.labels["feature"] for one in list_alerts(settings, "open")] == ["x"]
    assert run_watch(recipe, START + 3 * DAY).windows == 0
