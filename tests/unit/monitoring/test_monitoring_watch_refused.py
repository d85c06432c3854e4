"""Watches that cannot be: each is named before anything is counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from sunloom.config import Settings
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.core.alerts import list_alerts
from sunloom.errors import ConfigError, DataError, UsageError
from sunloom.monitoring.watch import run_watch

START = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("watch", "error", "message"),
    [
        ({"features": ["f9"]}, DataError, "no column 'f9' to watch"),
        ({"source": {"path": "{tmp}/none.parquet"}}, UsageError, "no file"),
        (
            {"source": {"path": "{tmp}/rows.parquet", "event_time": "at"}},
            DataError,
            "lacks the column",
        ),
        ({"source": {"path": "{tmp}/rows.parquet", "event_time": "id"}}, DataError, "time zone"),
        ({"reference": {"type": "table", "path": "{tmp}/none.parquet"}}, UsageError, "no file"),
    ],
)
def test_bad_recipes_are_named(
    settings: Settings, tmp_path: Path, watch: Any, error: type[Exception], message: str
) -> None:
    source = tmp_path / "rows.parquet"
    pl.DataFrame({"id": [1, 2], "event_time": [START, START], "f0": [0.1, 0.2]}).write_parquet(
        source
    )
    filled = _filled(watch, str(tmp_path))
    with pytest.raises(error, match=message):
        run_watch(
            MonitoringRecipe(
                paths=settings.paths,
                watch=WatchConfig.model_validate(
                    {"name": "orders", "source": {"path": str(source)}} | filled
                ),
            ),
            START + timedelta(days=1),
        )


def _filled(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, folder) for name, item in value.items()}
    return value.replace("{tmp}", folder) if isinstance(value, str) else value


def test_a_recipe_without_watch_says_so(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no `watch`"):
        run_watch(MonitoringRecipe(paths=settings.paths))


@pytest.mark.parametrize(
    "watch",
    [
        {"window": "90m"},
        {"window": "36h", "reference": {"type": "same_weekday"}},
        {"reference": {"type": "yesterday"}},
        {"alerts": {"raise_afer": 2}},
        {"threshold": 0},
    ],
)
def test_a_watch_that_cannot_be_is_refused(watch: Any) -> None:
    with pytest.raises(ValidationError):
        WatchConfig.model_validate({"name": "x", "source": {"path": "y"}} | watch)


def _watch(settings: Settings, path: Path, **more: Any) -> MonitoringRecipe:
    watch = WatchConfig.model_validate({"name": "orders", "source": {"path": str(path)}} | more)
    return MonitoringRecipe(paths=settings.paths, watch=watch)


def test_a_source_in_which_nothing_can_be_watched_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    rows = pl.DataFrame({"event_time": [START] * 3, "f0": [0.1, 0.2, 0.3]})
    for frame in (rows.head(0), rows.with_columns(f0=None)):
        frame.write_parquet(path)
        with pytest.raises(DataError, match="No feature of orders has a value"):
            run_watch(_watch(settings, path), START + timedelta(days=1))
    rows.clear(3).with_columns(f0=0.5).write_parquet(path)
    with pytest.raises(DataError, match=r"3 of 3 rows of .* have no event_time"):
        run_watch(_watch(settings, path), START + timedelta(days=1))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        run_watch(_watch(settings, path), START + timedelta(days=1))


def test_a_source_that_never_had_a_row_is_late(settings: Settings, tmp_path: Path) -> None:
    normal, path = tmp_path / "normal.parquet", tmp_path / "rows.parquet"
    rows = pl.DataFrame({"event_time": [START] * 3, "f0": [0.1, 0.2, 0.3]})
    rows.write_parquet(normal)
    rows.head(0).write_parquet(path)
    reference = {"type": "table", "path": str(normal)}
    watch = _watch(settings, path, reference=reference, max_lag="6h")
    assert run_watch(watch, START + timedelta(days=1)).raised == ["freshness"]
    (alert,) = list_alerts(settings, "open")
    assert (alert.message, alert.value) == ("The newest row of orders was never seen", None)
