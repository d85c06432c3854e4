"""Data and features on real Ray: the same plan, the same rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sunloom.config import load_config
from sunloom.config.data import DataRecipe
from sunloom.config.features import FeaturesRecipe
from sunloom.data.datasets import prepare_dataset
from sunloom.errors import DataQualityError
from sunloom.feature_store.materialization.materialize import compare_engines, materialize
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.cluster import historical_ray
from sunloom.features.historical.retrieve import historical_polars
from sunloom.features.sources.scan import open_scan

pytestmark = pytest.mark.integration
CLASSES = str(Path(__file__).parents[1] / "unit" / "features" / "chalk_classes.py")
START = datetime(2026, 3, 1, tzinfo=UTC)


def _sales(rows: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    at = [START + timedelta(hours=int(h)) for h in random.integers(0, 24 * 20, rows)]
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "shop_id": [f"shop {i}" for i in random.integers(0, 40, rows)],
            "at": at,
            "price": random.normal(20, 9, rows),
            "units": random.integers(-3, 9, rows),
            "paid": random.random(rows) < 0.5,
            "label": [None if i == 0 else f"l{i}" for i in random.integers(0, 5, rows)],
        }
    ).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


@pytest.mark.parametrize("feature_set", ["sl_shop", "sl_sale"])
def test_ray_data_gives_the_rows_of_polars(
    ray_local: str, tmp_path: Path, feature_set: str
) -> None:
    sales = _sales(3_000, seed=1)
    folder = tmp_path / "sales"
    folder.mkdir()
    sales.head(1_500).write_parquet(folder / "a.parquet", row_group_size=400)
    text = sales.slice(1_500).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"))
    text.write_ndjson(folder / "b.jsonl")
    random = np.random.default_rng(2)
    keys = random.integers(0, 45, 500)
    entities = pl.DataFrame(
        {
            "row": np.arange(500),
            "id": [f"shop {i}" for i in keys] if feature_set == "sl_shop" else keys,
            "event_time": [START + timedelta(hours=int(h)) for h in random.integers(0, 500, 500)],
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    plan = plan_of(CLASSES, feature_set)
    sources = {"sl_sale": folder}
    one = historical_polars(open_scan(plan, sources), entities).table
    many = historical_ray(open_scan(plan, sources), entities, partitions=3).table
    assert one["row"].to_list() == list(range(500))
    assert_frame_equal(one, many, rel_tol=1e-9, abs_tol=1e-12)


def test_damaged_rows_come_back_from_workers(ray_local: str, tmp_path: Path) -> None:
    file = tmp_path / "sales.jsonl"
    text = _sales(50, seed=3).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%:z"))
    text.write_ndjson(file)
    file.write_text(file.read_text() + "{torn\n")
    entities = pl.DataFrame({"id": ["shop 1"], "event_time": [START + timedelta(days=9)]})
    result = historical_ray(
        open_scan(plan_of(CLASSES, "sl_shop"), {"sl_sale": file}), entities, partitions=2
    )
    assert result.damaged["position"].to_list() == [51]
    assert result.table.height == 1


def test_cdnow_from_log_to_online_store(ray_local: str, tmp_path: Path, project_root: Path) -> None:
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    conf = project_root / "conf"
    data = load_config(DataRecipe, recipe=conf / "data" / "cdnow.yaml", sets=sets, conf_dir=conf)
    summary = prepare_dataset(data.config)
    assert summary.rows_in == 69_659
    assert summary.rows_out == 69_404
    assert summary.quarantined == {"duplicate": 255}
    assert summary.kept == {"zero_amount": 80}
    recipe = load_config(
        FeaturesRecipe, recipe=conf / "features" / "customer.yaml", sets=sets, conf_dir=conf
    ).config
    result = materialize(recipe)
    assert result.engines_equal is True
    comparison = compare_engines(recipe)
    assert comparison.equal
    assert comparison.rows == result.training_rows
    assert result.online_entities == 23_570
    training = pl.read_parquet(recipe.features_folder() / "training_1997-12-31.parquet")
    assert training.height == 23_570
    assert training["bought_180d"].mean() == pytest.approx(0.228, abs=0.001)
    store = open_online_store(recipe)
    values = store.read("customer", [1, 23_570])
    assert values[0] is not None
    assert values[0]["frequency"] == 1
    assert values[0]["recency_days"] == 545.0

    strict = load_config(
        DataRecipe,
        recipe=conf / "data" / "cdnow.yaml",
        sets=[*sets, "quality.max_bad_share=0.001"],
        conf_dir=conf,
    )
    with pytest.raises(DataQualityError, match="255 of 69659"):
        prepare_dataset(strict.config)
    assert pl.read_parquet(data.config.data_folder() / "purchases").height == 69_404
