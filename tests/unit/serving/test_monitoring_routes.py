"""``/monitoring`` and ``/metrics`` answer from the database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from asgi import OpenGate, call
from fastapi import FastAPI

from sunloom.config import Settings
from sunloom.config.data import ValidationConfig
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.core.database import open_database
from sunloom.data.quality.checked_table import table_from_frame
from sunloom.data.quality.report import store_verdict
from sunloom.data.quality.validate import validate
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.monitoring.watch import run_watch
from sunloom.serving.apps.features import app as features
from sunloom.serving.apps.gateway import monitoring_routes as monitoring
from sunloom.serving.apps.gateway.health_routes import render_all_metrics
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.serving.metrics.request_metrics import RequestMetrics, Series, quantile_ms
from sunloom.serving.metrics.served_features import (
    FeatureRates,
    ServedFeatureSampler,
    render_served_features,
    served_feature_rates,
)

START = datetime(2026, 1, 5, tzinfo=UTC)


def get(settings: Settings, path: str) -> Any:
    app = FastAPI()
    app.include_router(monitoring.build_router(settings))
    guarded = GatewayMiddleware(app, OpenGate("models"), "gateway")
    return asyncio.run(call(guarded, "GET", path)).json()


@pytest.fixture
def watched(settings: Settings, tmp_path: Path) -> Settings:
    random = np.random.default_rng(1)
    at = [START + timedelta(minutes=n) for n in range(3 * 1440)]
    x = random.normal(0, 1, len(at)) + np.repeat([0.0, 0.0, 2.0], 1440)
    pl.DataFrame({"event_time": at, "x": x}).write_parquet(tmp_path / "rows.parquet")
    source = {"path": str(tmp_path / "rows.parquet")}
    reference = {"type": "trailing", "length": "1d"}
    config = WatchConfig.model_validate({"name": "w", "source": source, "reference": reference})
    run_watch(MonitoringRecipe(paths=settings.paths, watch=config), START + timedelta(days=3))
    return settings


def test_drift_of_now_and_over_time(watched: Settings) -> None:
    (latest,) = get(watched, "/monitoring/drift")["reports"]
    assert (latest["report"], latest["drifted_features"]) == ("w", 1)
    assert latest["current"] == "2026-01-07T00/2026-01-08T00"
    reports = get(watched, "/monitoring/drift?monitor=w")["reports"]
    assert [one["drifted_features"] for one in reports] == [1, 0]


def test_quality_and_verdicts(watched: Settings) -> None:
    rows = table_from_frame(pl.DataFrame({"id": [1, 1]}), "r")
    store_verdict(open_database(watched), "batch", validate(rows, ValidationConfig()))
    found = get(watched, "/monitoring/quality")
    assert [(one["name"], one["passed"]) for one in found["checks"]] == [("batch", False)]
    (window,) = found["features"]
    assert window["features"][0]["null_rate"] == 0.0
    assert window["window"] == "2026-01-07T00:00:00+00:00/2026-01-08T00:00:00+00:00"
    assert len(get(watched, "/monitoring/quality?monitor=w")["features"]) == 2


def test_performance_of_monitors_and_routes(watched: Settings) -> None:
    counters = RequestMetrics(open_database(watched), "features")
    for status in (200, 200, 200, 503):
        counters.observe("/features", "GET", status, 0.004)
    counters.flush()
    found = get(watched, "/monitoring/performance")
    assert found["features"][0]["freshness_lag_s"] == 60.0
    (route,) = found["serving"]
    assert (route["service"], route["requests"], route["failed"]) == ("features", 4, 1)
    assert 2.5 <= route["p50_ms"] <= route["p99_ms"] <= 5.0


def test_nulls_and_defaults_at_serving_are_counted_from_a_sample(settings: Settings) -> None:
    answers = ServedFeatureSampler(open_database(settings), lambda _name: {"n": 0})
    known = {"found": True, "features": {"n": 0, "x": None}}
    other = {"found": True, "features": {"n": 3, "x": 1.5}}
    unknown = {"found": False, "features": {"n": None, "x": None}}
    for _ in range(16):
        answers.observe("s", [known, other, unknown, unknown])
    answers.flush()
    answers.flush()
    (found,) = get(settings, "/monitoring/performance")["answers"]
    assert (found["feature_set"], found["sampled_entities"], found["unknown_rate"]) == ("s", 8, 0.5)
    assert found["features"] == [
        {"feature": "n", "null_rate": 0.0, "default_rate": 0.5},
        {"feature": "x", "null_rate": 0.5, "default_rate": 0.0},
    ]
    text = render_served_features(open_database(settings))
    assert 'sunloom_feature_served_null_rate{feature_set="s",feature="x"} 0.5' in text


def test_the_features_app_counts_its_answers(settings: Settings) -> None:
    frame = pl.DataFrame(
        {"id": [1], "event_time": [START], "x": [None]}, schema_overrides={"x": pl.Float64}
    )
    open_online_store(settings).write("customer", frame)
    made: list[ServedFeatureSampler] = []

    class Kept(ServedFeatureSampler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "ServedFeatureSampler", Kept)
        app = features.build_features_app(settings)
    assert asyncio.run(call(app, "GET", "/features/customer?entity_id=1")).status_code == 200
    made[0].flush()
    (rates,) = served_feature_rates(open_database(settings))
    assert rates.features == [FeatureRates("x", null_rate=1.0, default_rate=0.0)]


def test_alerts_and_metrics(watched: Settings) -> None:
    (alert,) = get(watched, "/monitoring/alerts?status=open")["alerts"]
    assert alert["labels"] == {"monitor": "w", "feature": "x"}
    assert get(watched, "/monitoring/alerts?status=resolved")["alerts"] == []
    text = render_all_metrics(watched)
    assert 'sunloom_feature_drift{monitor="w",feature="x",method="psi"}' in text
    assert 'sunloom_alerts_open{severity="warning"} 1' in text


def test_a_quantile_lies_within_its_bucket() -> None:
    series = Series()
    for seconds in [0.0005] * 50 + [0.3] * 50:
        series.add(seconds)
    assert quantile_ms(series, 0.25) == pytest.approx(0.5)
    assert quantile_ms(series, 0.75) == pytest.approx(375.0)
    assert quantile_ms(Series(), 0.5) is None
