"""A batch that the rules refuse is not written; the last good one stays. HTTP rows are checked."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.data.quality.report import latest_verdicts
from sunloom.errors import DataQualityError
from sunloom.feature_store.materialization.backfill import backfill
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.stores.offline_store import open_offline_store
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.monitoring.feature_costs import feature_costs
from sunloom.monitoring.stored_results import latest_results

START = datetime(2026, 3, 1, tzinfo=UTC)
CLASSES = Path(__file__).with_name("gate_classes.py")
RULES = """
validation:
  columns:
    takings: {min: 0, max: 1000}
    dearest: {completeness: 1.0}
"""


def _write(folder: Path, prices: list[float]) -> None:
    pl.DataFrame(
        {
            "id": range(len(prices)),
            "shop_id": [f"s{n % 4}" for n in range(len(prices))],
            "price": prices,
            "at": [START + timedelta(hours=6 * n) for n in range(len(prices))],
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))).write_parquet(
        folder / "sales.parquet"
    )


def recipe(folder: Path, more: str = RULES) -> FeaturesRecipe:
    path = folder / "recipe.yaml"
    tables = f"{{qg_sale: {folder / 'sales.parquet'}}}"
    lines = [
        f"definitions: {CLASSES}",
        "feature_set: qg_shop",
        f"feature_store: {{batch_source: {{type: files, tables: {tables}}}}}",
        "online: {as_of: 2026-03-20T00:00:00Z}",
        "execution: {compare_engines: false, engine: polars}",
    ]
    path.write_text("\n".join([*lines, more]))
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    return load_config(FeaturesRecipe, recipe=path, sets=sets).config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path, [10.0] * 20)
    return tmp_path


def test_a_failed_batch_is_not_written_and_the_last_good_one_stays(folder: Path) -> None:
    good = recipe(folder)
    assert materialize(good).online_entities == 4
    _write(folder, [10.0] * 19 + [2_000.0])
    with pytest.raises(DataQualityError, match=r"takings: range 0\.75") as caught:
        materialize(good)
    assert "What was written before stays" in caught.value.hint
    store = open_online_store(good)
    assert [row and row["takings"] for row in store.read("qg_shop", ["s3"])] == [50.0]
    assert [version.number for version in open_offline_store(good).versions("qg_shop")] == [1]
    quality = good.features_folder() / "quality" / "online"
    (rejected,) = [
        json.loads(line) for line in (quality / "rejected.jsonl").read_text().splitlines()
    ]
    assert rejected["reason"] == "takings is outside 0 to 1000"
    assert rejected["content"]["id"] == "s3"
    assert (quality / "report.html").is_file()
    assert [(one.name, one.passed) for one in latest_verdicts(good)] == [("qg_shop online", False)]
    assert materialize(recipe(folder, "")).online_entities == 4
    assert store.read("qg_shop", ["s3"])[0]["takings"] == 2_040.0  # type: ignore[index]


def test_a_backfill_stops_at_the_chunk_that_fails(folder: Path) -> None:
    _write(folder, [10.0] * 16 + [2_000.0] * 4)
    range_ = "backfill: {start: 2026-03-02T00:00:00Z, end: 2026-03-08T00:00:00Z, every: 1d, "
    config = recipe(folder, RULES + range_ + "chunk: 1d, into_store: true}\n")
    with pytest.raises(DataQualityError, match=r"qg_shop .* is not written"):
        backfill(config)
    kept = open_offline_store(config).read("qg_shop")
    # The dear sale of the fifth is seen at its midnight.
    assert kept["event_time"].max() == START + timedelta(days=3)
    assert kept["takings"].max() <= 1000


def test_http_rows_are_checked_by_the_same_rules(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))
    from asgi import OpenGate, call

    from sunloom.serving.apps.features.app import build_features_app
    from sunloom.serving.auth.middleware import GatewayMiddleware

    config = recipe(folder)
    materialize(config)
    app = GatewayMiddleware(build_features_app(config), OpenGate("features"), "features")

    def judged(*rows: Any) -> tuple[bool, list[tuple[str, str, Any]]]:
        body = {"feature_set": "qg_shop", "rows": list(rows)}
        found = asyncio.run(call(app, "POST", "/features/validate", json=body)).json()
        wrong = [one for one in found["checks"] if not one["passed"]]
        return found["passed"], [(one["check"], one["feature"], one["value"]) for one in wrong]

    right = {"id": "a", "takings": 3.0, "dearest": 2.0}
    assert judged(right, right | {"id": "b"}) == (True, [])
    assert judged(right | {"takings": -1.0}) == (False, [("range", "takings", 0.0)])
    assert judged(right, right) == (False, [("uniqueness", "id", 0.5)])
    assert judged(right | {"dearest": None})[1] == [("completeness", "dearest", 0.0)]
    assert ("type", "takings", 0.0) in judged(right | {"takings": "3"})[1]
    materialize(recipe(folder, ""))
    assert judged(right | {"takings": -1.0}) == (True, [])


def test_costs_of_each_feature_are_measured_and_kept(folder: Path) -> None:
    found = feature_costs(recipe(folder, ""), rows=3)
    assert found.rows == 3
    assert {one.feature for one in found.features} == {"takings", "dearest"}
    assert sum(one.share for one in found.features) == pytest.approx(1.0)
    assert found.whole_ms > 0
    (kept,) = latest_results(recipe(folder, ""), "cost")
    assert (kept.monitor, kept.data["features"]) == (
        "qg_shop",
        [asdict(one) for one in found.features],
    )
