"""A monitor on a real PostgreSQL: counts, results, alerts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from sunloom.config import load_config
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.core.alerts import list_alerts
from sunloom.monitoring.prometheus import render_monitoring
from sunloom.monitoring.stored_results import results_over_time
from sunloom.monitoring.watch import run_watch

pytestmark = pytest.mark.integration
START = datetime(2026, 1, 5, tzinfo=UTC)


def test_a_monitor_keeps_its_counts_and_alerts(
    postgres: str, tmp_path: Path, project_root: Path
) -> None:
    at = [START + timedelta(minutes=n) for n in range(3 * 1440)]
    x = [float(n % 97) + 60 * (n >= 2 * 1440) for n in range(len(at))]
    pl.DataFrame({"event_time": at, "x": x}).write_parquet(tmp_path / "rows.parquet")
    watch = WatchConfig.model_validate(
        {
            "name": "orders",
            "source": {"path": str(tmp_path / "rows.parquet")},
            "features": ["x"],
            "reference": {"type": "trailing", "length": "1d"},
            "keep_hours": "1h",
        }
    )
    sets = [f"paths.state={tmp_path}", f"database.url={postgres}"]
    loaded = load_config(MonitoringRecipe, sets=sets, conf_dir=project_root / "conf").config
    recipe = loaded.model_copy(update={"watch": watch})
    assert run_watch(recipe, START + timedelta(days=3)).raised == ["x"]
    assert run_watch(recipe, START + timedelta(days=3)).windows == 0
    windows = results_over_time(recipe, "quality", "orders")
    assert [one.data["rows"] for one in windows] == [1440, 1440]
    mine = [one for one in list_alerts(recipe, "open") if one.labels.get("monitor")]
    assert [one.labels["feature"] for one in mine] == ["x"]
    assert 'monitor="orders"' in render_monitoring(recipe)
    assert not (tmp_path / "sunloom.db").exists()
