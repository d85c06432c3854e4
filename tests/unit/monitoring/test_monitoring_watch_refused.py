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
