"""A feature set in prepared form: what a model is trained on is what is served to it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from sunloom.cli.features.fit_transform import load_preparation
from sunloom.config.features import FeaturesRecipe
from sunloom.config.preprocessing.transformations import PreparationConfig
from sunloom.core.model_registry import open_registry
from sunloom.errors import ConfigError, DataError, UsageError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.preprocessing.artifact import load
from sunloom.preprocessing.job import fit_file
from sunloom.serving.apps.features.app import build_features_app

DAYS = ["1997-03-31", "1997-06-30", "1997-09-30"]
SHORT = {"missing_values": {"strategy": "median"}, "numerical_scaling": {"method": "robust_scaler"}}


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A recipe over a small data set of purchases."""
    rng = np.random.default_rng(0)
    moments = [datetime(1997, 1, 2, tzinfo=UTC) + timedelta(hours=9 * n) for n in range(600)]
    purchases = pl.DataFrame(
        {
            "id": range(600),
            "customer_id": rng.integers(1, 60, 600),
            "amount": rng.lognormal(3, 1, 600).round(2),
            "quantity": rng.integers(1, 5, 600),
            "timestamp": pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
        }
    )
    folder = tmp_path / "outputs" / "data" / "cdnow"
    folder.mkdir(parents=True)
    purchases.write_parquet(folder / "purchases.parquet")
    first = pl.col("timestamp").min().alias("first_seen")
    customers = purchases.group_by(pl.col("customer_id").alias("id")).agg(first)
    customers.write_parquet(folder / "customers.parquet")
    source = {"type": "dataset", "dataset": "cdnow", "tables": {"purchase": "purchases"}}
    return {
        "definitions": "retail",
        "feature_set": "customer",
        "execution": {"compare_engines": False},
        "feature_store": {"batch_source": source},
        "training": {"dataset": "cdnow", "cutoffs": DAYS},
        "online": {"as_of": "1997-09-30T00:00:00Z"},
        "paths": {"state": tmp_path / "state", "outputs": tmp_path / "outputs"},
        "transformations": SHORT,
    }


def rows_of(recipe: FeaturesRecipe, feature_set: str, day: str) -> pl.DataFrame:
    path = recipe.paths.outputs / "features" / feature_set / f"training_{day}.parquet"
    return pl.read_parquet(path)


def test_what_is_trained_on_is_what_is_served(tree: dict[str, Any]) -> None:
    recipe = FeaturesRecipe.model_validate(tree)
    result = materialize(recipe)
    assert result.prepared_set == "customer_prepared"
    assert result.prepared_entities == result.online_entities
    fitted = load(Path(result.prepared_by))
    raw = pl.concat([rows_of(recipe, "customer", day) for day in DAYS[:2]])
    # Fitted on all cut-offs but the latest, which models are judged on.
    assert fitted.report.rows == raw.height
    assert "bought_180d" not in fitted.schema
    for day in DAYS:
        rows, prepared = rows_of(recipe, "customer", day), rows_of(recipe, "customer_prepared", day)
        assert_frame_equal(fitted.apply_frame(rows), prepared, check_exact=True)
        assert prepared["id"].equals(rows["id"])
        assert prepared["bought_180d"].equals(rows["bought_180d"])
    last = rows_of(recipe, "customer_prepared", DAYS[2])
    wanted = last.row(3, named=True)
    features = asyncio.run(_read(recipe, wanted["id"]))
    assert len(features) == last.width - 3
    numbers = {k: v for k, v in features.items() if not isinstance(wanted[k], datetime)}
    assert numbers == pytest.approx({name: wanted[name] for name in numbers}, rel=1e-12)


async def _read(recipe: FeaturesRecipe, entity: int) -> dict[str, Any]:
    transport = httpx.ASGITransport(app=build_features_app(recipe))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(f"/features/customer_prepared?entity_id={entity}")
    found: dict[str, Any] = answer.json()["features"]
    return found


def test_every_key_of_the_prepared_set_matters(tree: dict[str, Any]) -> None:
    wanted = {"feature_set": "ready", "cutoffs": [DAYS[2]], "name": "ready_for_models"}
    recipe = FeaturesRecipe.model_validate(tree | {"prepared": wanted | {"alias": "production"}})
    result = materialize(recipe)
    assert result.prepared_set == "ready"
    assert result.prepared_by == "ready_for_models@1"
    version = open_registry(recipe).get("ready_for_models@production")
    fitted = load(open_registry(recipe).path(version))
    assert fitted.report.rows == rows_of(recipe, "customer", DAYS[2]).height
    assert "ready" in open_online_store(recipe).feature_sets()
    # A later run uses what was fitted: nothing is learnt again.
    named = tree | {"transformations": {"artifact": "ready_for_models@production"}}
    later = FeaturesRecipe.model_validate(named | {"prepared": {"feature_set": "later"}})
    assert materialize(later).prepared_by == "ready_for_models@production"
    a, b = rows_of(recipe, "ready", DAYS[0]), rows_of(later, "later", DAYS[0])
    assert_frame_equal(a, b, check_exact=True)


def test_target_encodings_of_training_rows_are_out_of_fold(tree: dict[str, Any]) -> None:
    step = {"type": "target_encoder", "columns": ["frequency"], "target": "bought_180d"}
    recipe = FeaturesRecipe.model_validate(tree | {"transformations": [step]})
    result = materialize(recipe)
    fitted = load(Path(result.prepared_by))
    rows = rows_of(recipe, "customer", DAYS[0])
    plain = fitted.apply_frame(rows)["frequency"]
    assert not rows_of(recipe, "customer_prepared", DAYS[0])["frequency"].equals(plain)
    judged = fitted.apply_frame(rows_of(recipe, "customer", DAYS[2]))["frequency"]
    assert rows_of(recipe, "customer_prepared", DAYS[2])["frequency"].equals(judged)


def test_only_online_values(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["feature_store"]["batch_source"] = {
        "type": "files",
        "tables": {"purchase": tmp_path / "outputs/data/cdnow/purchases.parquet"},
    }
    recipe = FeaturesRecipe.model_validate(tree | {"training": None})
    result = materialize(recipe)
    store = open_online_store(recipe)
    assert store.count("customer_prepared") == result.prepared_entities > 50


def test_a_set_that_cannot_be_prepared_is_refused(tree: dict[str, Any]) -> None:
    def run(**changes: Any) -> None:
        materialize(FeaturesRecipe.model_validate(tree | changes))

    with pytest.raises(ConfigError, match="no cut-off of the training"):
        run(prepared={"cutoffs": ["1999-01-01"]})
    with pytest.raises(DataError, match="change 'id'"):
        run(transformations=[{"type": "standard_scaler", "columns": ["id"]}])
    with pytest.raises(DataError, match="lacks the column frequenzy"):
        run(transformations=[{"type": "standard_scaler", "columns": ["frequenzy"]}])
    with pytest.raises(UsageError, match="no fitted artifact"):
        run(transformations={"artifact": "./nowhere"})


def test_a_feature_sets_recipe_fits_a_file_too(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUNLOOM_HOME", str(tmp_path))
    recipe = FeaturesRecipe.model_validate(tree)
    materialize(recipe)
    path = tmp_path / "recipe.yaml"
    plain = {key: value for key, value in tree.items() if key != "paths"}
    path.write_text(yaml.safe_dump(plain))
    config, keep = load_preparation(path)
    assert keep == ("id", "event_time", "bought_180d")
    rows = recipe.features_folder() / f"training_{DAYS[0]}.parquet"
    request = PreparationConfig(input=rows, artifact=tmp_path / "fitted")
    fit_file(config, config.transformations, request, keep)
    prepared = load(tmp_path / "fitted").apply_frame(pl.read_parquet(rows))
    assert prepared.select(keep).equals(pl.read_parquet(rows).select(keep))
    path.write_text(yaml.safe_dump(plain | {"transformations": {"artifact": "ready"}}))
    named, _ = load_preparation(path)
    with pytest.raises(ConfigError, match="are fitted: the artifact ready"):
        fit_file(named, named.transformations, request, keep)
