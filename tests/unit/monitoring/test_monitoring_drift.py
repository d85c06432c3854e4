"""The comparison and its alert, on the direct engine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sunloom.config import Settings
from sunloom.config.data import DriftConfig, FeatureBound
from sunloom.config.monitoring import EventsConfig, MonitoringRecipe
from sunloom.core.alerts import list_alerts
from sunloom.data.datasets import DatasetSummary, dataset_summaries
from sunloom.data.quality.drift import drift_report
from sunloom.errors import DataError
from sunloom.monitoring.drift_job import run_drift
from sunloom.monitoring.stored_results import latest_drift

DIRECT = DriftConfig(engine="direct", method="psi", threshold=0.2)


def _table(shift: float, rows: int = 2000) -> pl.DataFrame:
    generator = np.random.default_rng(int(shift * 10))
    return pl.DataFrame(
        {
            "customer_id": np.arange(rows) + int(shift * 1e6),
            "moved": generator.normal(shift, 1, rows),
            "still": generator.normal(0, 1, rows),
            "word": ["a"] * rows,
        }
    )


def test_only_the_feature_that_moved_drifts(tmp_path: Path) -> None:
    report = drift_report(_table(0), _table(1), DIRECT, tmp_path)
    assert [feature.feature for feature in report.features] == ["moved", "still"]
    assert [feature.feature for feature in report.drifted_features] == ["moved"]
    moved, still = report.features
    assert 0.8 < moved.value < 1.3
    assert still.value < 0.03
    assert report.numbers is not None
    assert report.html is None
    written = json.loads(report.numbers.read_text())
    assert written["drifted_features"] == 1
    assert written["features"][0]["value"] == moved.value
    assert "customer_id" not in report.numbers.read_text()


def test_a_threshold_of_its_own() -> None:
    config = DIRECT.model_copy(update={"per_feature": {"moved": FeatureBound(threshold=5.0)}})
    assert drift_report(_table(0), _table(1), config).drifted_features == ()


def test_the_direct_engine_knows_every_method() -> None:
    from scipy.stats import ks_2samp, wasserstein_distance

    config = DIRECT.model_copy(
        update={"method": "wasserstein", "per_feature": {"still": FeatureBound(method="ks")}}
    )
    before, after = _table(0), _table(1)
    found = {
        one.feature: (one.method, one.value) for one in drift_report(before, after, config).features
    }
    distance = wasserstein_distance(before["moved"], after["moved"])
    assert found["moved"] == ("wasserstein", pytest.approx(distance / before["moved"].std(ddof=0)))
    chance = ks_2samp(before["still"], after["still"]).pvalue
    assert found["still"] == ("ks", pytest.approx(chance))


@pytest.mark.parametrize("name", ["moved_", "word", "customer_id"])
def test_a_feature_that_cannot_be_compared_is_named(name: str) -> None:
    config = DIRECT.model_copy(update={"features": (name,)})
    with pytest.raises(DataError, match=f"no numeric feature '{name}'"):
        drift_report(_table(0), _table(1), config)


def test_what_cannot_be_compared_is_listed_and_fails_and_the_rest_is_judged(
    tmp_path: Path,
) -> None:
    broken = _table(1).with_columns(still=pl.lit(float("inf"))).drop("word")
    normal = _table(0).with_columns(gone=pl.lit(1.0))
    report = drift_report(normal, broken, DIRECT, tmp_path)
    assert [(one.feature, one.drifted, one.reason) for one in report.features] == [
        ("moved", True, ""),
        ("still", True, "no finite number in these rows"),
        ("gone", True, "these rows have no such column"),
    ]
    assert report.features[1].value is None
    written = json.loads((tmp_path / "drift.json").read_text())
    assert (written["drifted_features"], written["drift_skipped"]) == (3, None)


def test_too_few_rows_are_named_and_leave_an_alert_as_it_is(
    settings: Settings, tmp_path: Path
) -> None:
    said = "8 rows came; drift is judged from 500 on (drift.min_rows)."
    few = drift_report(_table(0), _table(0).head(8), DIRECT)
    assert (few.features, few.skipped) == ((), said)
    told = drift_report(_table(0), _table(1).head(8), DIRECT.model_copy(update={"min_rows": 8}))
    assert ([one.feature for one in told.features], told.skipped) == (["moved", "still"], None)

    recipe = _recipe(settings, tmp_path / "events", changed=True)
    run_drift(recipe)
    calm = _recipe(settings, tmp_path / "events", changed=False)
    least = calm.drift.model_copy(update={"min_rows": 901})
    skipped = run_drift(calm.model_copy(update={"drift": least}))
    assert (skipped.drifted_features, skipped.alerts) == (0, 0)
    assert "(drift.min_rows)" in str(skipped.drift_skipped)
    assert len(list_alerts(settings, "open")) == 1


def _recipe(settings: Settings, folder: Path, changed: bool) -> MonitoringRecipe:
    generator = np.random.default_rng(5)
    days = np.concatenate([generator.integers(0, 90, 900), generator.integers(455, 545, 900)])
    start = datetime(1997, 1, 1, tzinfo=UTC)
    amount = generator.normal(30, 5, 1800)
    amount[900:] += 20 * changed
    events = pl.DataFrame(
        {
            "customer_id": np.arange(1800),
            "timestamp": [start + timedelta(days=int(day)) for day in days],
            "amount": amount,
        }
    )
    folder.mkdir(exist_ok=True)
    events.write_parquet(folder / "events.parquet")
    config = DIRECT.model_copy(update={"features": ("amount", "weekday")})
    return MonitoringRecipe(paths=settings.paths, events=EventsConfig(path=folder), drift=config)


def test_a_run_stores_alerts_once_and_resolves(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    result = run_drift(_recipe(settings, folder, changed=True))
    assert (result.drifted_features, result.alerts) == (1, 1)
    run_drift(_recipe(settings, folder, changed=True))
    (alert,) = list_alerts(settings, "open")
    assert alert.count == 2
    assert alert.severity == "critical"
    assert "amount (psi" in alert.message
    assert alert.labels == {"report": "purchases"}
    assert (alert.value, alert.threshold) == (1.0, 1.0)

    calm = run_drift(_recipe(settings, folder, changed=False))
    assert (calm.drifted_features, calm.alerts) == (0, 0)
    assert list_alerts(settings, "open") == []
    (stored,) = latest_drift(settings)
    assert stored.drifted_features == 0
    assert stored.current == "1998-04-01..1998-06-30"
    assert [feature.feature for feature in stored.features] == ["amount", "weekday"]


def test_quality_is_read_from_the_data_steps_summary(settings: Settings) -> None:
    assert dataset_summaries(settings) == []
    folder = settings.paths.outputs / "data" / "cdnow"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"rows_in": 3, "rows_out": 2}')
    assert dataset_summaries(settings) == [DatasetSummary("cdnow", {"rows_in": 3, "rows_out": 2})]
