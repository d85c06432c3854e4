"""A sample of served features is stored and compared with offline values."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from asgi import OpenGate, call
from fastapi import FastAPI

from sunloom.config import Settings
from sunloom.config.features import FeaturesRecipe
from sunloom.core.alerts import list_alerts
from sunloom.core.database import open_database
from sunloom.errors import ConflictError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.monitoring.skew import compare_served
from sunloom.monitoring.stored_results import KEPT, ServedResult, latest_served, store_served
from sunloom.serving.apps.features.app import build_features_app
from sunloom.serving.apps.gateway import monitoring_routes as monitoring
from sunloom.serving.apps.gateway.health_routes import render_all_metrics
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.serving.metrics import served_features as answers

DEFINITIONS = Path(__file__).parent / "served_shops.py"
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def recipe(settings: Settings, tmp_path: Path) -> FeaturesRecipe:
    visits(1.0).write_parquet(tmp_path / "visits.parquet")
    return FeaturesRecipe.model_validate(
        {
            **{name: getattr(settings, name) for name in Settings.model_fields},
            "definitions": str(DEFINITIONS),
            "feature_set": "served_shop",
            "feature_store": {
                "batch_source": {
                    "type": "files",
                    "tables": {"served_visit": tmp_path / "visits.parquet"},
                }
            },
            "online": {"as_of": AS_OF},
        }
    )


def visits(factor: float) -> pl.DataFrame:
    numbers = list(range(200))
    return pl.DataFrame(
        {
            "id": numbers,
            "shop_id": [number % 5 for number in numbers],
            "at": [AS_OF - timedelta(hours=number) for number in numbers],
            "spent": [factor * number / 3 for number in numbers],
        }
    )


def read_all(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty reads of five shops, and wait for the sample to be written."""
    monkeypatch.setattr(answers, "_FLUSH_S", 0.0)
    app = GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")

    async def ask() -> None:
        for number in range(40):
            path = f"/features/served_shop?entity_id={number % 5}"
            assert (await call(app, "GET", path)).status_code == 200

    asyncio.run(ask())
    deadline = time.monotonic() + 10
    while len(latest_served(open_database(settings), "served_shop", 100)) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_served_features_equal_offline_ones(
    recipe: FeaturesRecipe, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConflictError, match="kept yet"):
        compare_served(recipe)
    materialize(recipe)
    read_all(settings, monkeypatch)
    found = compare_served(recipe)
    assert found.passed
    assert found.questions == 5
    assert found.values == 20
    assert list_alerts(settings) == []
    # Sources that no longer say what was served are found out, feature by feature.
    visits(2.0).write_parquet(tmp_path / "visits.parquet")
    found = compare_served(recipe)
    assert not found.passed
    assert found.differences == 5
    assert {one.feature for one in found.examples} == {"spent"}
    first = found.examples[0]
    assert first.moment == AS_OF
    assert first.offline == pytest.approx(2 * first.online)
    gateway = FastAPI()
    gateway.include_router(monitoring.build_router(settings))
    (kept,) = asyncio.run(call(gateway, "GET", "/monitoring/quality")).json()["skew"]
    assert (kept["monitor"], kept["questions"], kept["differences"]) == ("served_shop", 5, 5)
    rates = {one["feature"]: one["skew_rate"] for one in kept["features"]}
    assert rates.pop("spent") == 1.0
    assert set(rates.values()) == {0.0}
    assert 'feature_skew_rate{feature_set="served_shop",feature="spent"} 1' in render_all_metrics(
        settings
    )
    (alert,) = list_alerts(settings, "open")
    assert (alert.name, alert.labels) == ("feature_skew", {"feature_set": "served_shop"})
    assert "5 of 20 served values of served_shop differ from offline: spent (5)" in alert.message
    visits(1.0).write_parquet(tmp_path / "visits.parquet")
    assert compare_served(recipe).passed
    assert list_alerts(settings, "open") == []


def test_keep_answers_false_stores_no_sample(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, recipe: FeaturesRecipe
) -> None:
    materialize(recipe)
    silent = settings.serving.model_copy(
        update={"features": settings.serving.features.model_copy(update={"keep_answers": False})}
    )
    monkeypatch.setattr(answers, "_FLUSH_S", 0.0)
    app = build_features_app(settings.model_copy(update={"serving": silent}))
    guarded = GatewayMiddleware(app, OpenGate("features"), "features")
    for number in range(10):
        asyncio.run(call(guarded, "GET", f"/features/served_shop?entity_id={number % 5}"))
    time.sleep(0.3)
    assert latest_served(open_database(settings), "served_shop", 10) == []


def test_the_newest_results_are_kept(settings: Settings) -> None:
    database = open_database(settings)
    for part in range(3):
        store_served(
            database,
            [
                ServedResult("many", number, AS_OF, {"n": number})
                for number in range(part * 4_000, (part + 1) * 4_000)
            ],
        )
    kept = latest_served(database, "many", 20_000)
    assert [one.entity_id for one in kept] == list(range(12_000 - KEPT, 12_000))
