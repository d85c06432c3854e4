"""Where ``materialize`` writes to, and what it leaves there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.errors import ConfigError, DataQualityError, UsageError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.stores.offline_store import open_offline_store
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.plan.feature_sets import Plan

MARCH, JUNE = datetime(1997, 3, 31, tzinfo=UTC), datetime(1997, 6, 30, tzinfo=UTC)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> list[str]:
    """Settings of a folder that holds a small data set and two recipes."""
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    moments = [datetime(1997, 1, 2, tzinfo=UTC) + timedelta(days=3 * n) for n in range(40)]
    purchases = pl.DataFrame(
        {
            "id": range(40),
            "customer_id": [n % 7 + 1 for n in range(39)] + [8],
            "amount": [float(n) for n in range(40)],
            "quantity": [1] * 40,
            "timestamp": pl.Series(moments, dtype=pl.Datetime("us", "UTC")),
        }
    )
    folder = tmp_path / "outputs" / "data" / "cdnow"
    folder.mkdir(parents=True)
    purchases.write_parquet(folder / "purchases.parquet")
    customers = purchases.group_by(pl.col("customer_id").alias("id")).agg(
        first_seen=pl.col("timestamp").min()
    )
    customers.write_parquet(folder / "customers.parquet")
    files = f"{{type: files, tables: {{purchase: {folder / 'purchases.parquet'}}}}}"
    dataset = "{type: dataset, dataset: cdnow, tables: {purchase: purchases}}"
    common = "definitions: retail\nfeature_set: customer\nexecution: {compare_engines: false}\n"
    (tmp_path / "files.yaml").write_text(
        f"{common}feature_store: {{batch_source: {files}}}\n"
        "online: {as_of: 1997-04-28T00:00:00Z}\n"
    )
    (tmp_path / "dataset.yaml").write_text(
        f"{common}feature_store: {{batch_source: {dataset}}}\n"
        "training: {dataset: cdnow, cutoffs: [1997-03-31, 1997-06-30]}\n"
        "online: {as_of: 1997-06-30T00:00:00Z}\n"
    )
    return [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]


def _recipe(tmp_path: Path, name: str, sets: list[str]) -> FeaturesRecipe:
    return load_config(FeaturesRecipe, recipe=tmp_path / f"{name}.yaml", sets=sets).config


def test_rows_go_to_both_stores(tmp_path: Path, sets: list[str]) -> None:
    recipe = _recipe(tmp_path, "dataset", sets)
    first = materialize(recipe)
    assert first.model_dump(exclude_unset=True) == {
        "training_rows": 7 + 8,
        "online_entities": 8,
        "engines_equal": None,
        "offline_version": 1,
    }
    # The same days again: a new version, no row twice.
    assert materialize(recipe).offline_version == 2
    offline = open_offline_store(recipe)
    assert offline.version("customer").rows == 15
    march = offline.read("customer", end=MARCH + timedelta(days=1))
    trained = pl.read_parquet(recipe.features_folder() / "training_1997-03-31.parquet")
    assert march.sort("id").equals(trained.drop("bought_180d").select(march.columns).sort("id"))
    online = open_online_store(recipe)
    june = offline.read("customer", start=JUNE).sort("id").drop("id", "event_time")
    assert online.read("customer", range(1, 9)) == june.to_dicts()
    [held] = online.get_many("plan", [b"customer"])
    assert held is not None
    assert Plan.model_validate_json(held).feature_set == "customer"


def test_without_a_labelled_data_set_the_sources_say_who_is_known(
    tmp_path: Path, sets: list[str]
) -> None:
    recipe = _recipe(tmp_path, "files", sets)
    result = materialize(recipe)
    # Customer 8 first buys on 29 April.
    assert (result.training_rows, result.online_entities) == (0, 7)
    assert open_online_store(recipe).read("customer", [8]) == [None]


def test_the_recipe_may_name_the_entities(tmp_path: Path, sets: list[str]) -> None:
    (tmp_path / "wanted.csv").write_text("id,who\n3,a\n3,b\n99,c\n")
    named = f"online.entities={tmp_path / 'wanted.csv'}"
    recipe = _recipe(tmp_path, "files", [*sets, named])
    assert materialize(recipe).online_entities == 2
    [known, unknown] = open_online_store(recipe).read("customer", [3, 99], ["frequency"])
    assert known == {"frequency": 6}
    assert unknown == {"frequency": 0}


def test_rows_that_name_no_entity_are_set_aside(tmp_path: Path, sets: list[str]) -> None:
    rows = b'\xef\xbb\xbf{"id": 3}\n{"id": "x"}\n{"id": null}\n{"id": \n{"id": 5}\n'
    (tmp_path / "some.jsonl").write_bytes(rows)
    named = f"online.entities={tmp_path / 'some.jsonl'}"
    with pytest.raises(DataQualityError, match="3 of 5 entities' rows cannot be read"):
        materialize(_recipe(tmp_path, "files", [*sets, named]))
    result = materialize(
        recipe := _recipe(tmp_path, "files", [*sets, named, "execution.max_bad_share=0.6"])
    )
    assert result.online_entities == 2
    lines = (recipe.features_folder() / "quarantine.jsonl").read_text().splitlines()
    reasons = {row["position"]: row["reason"] for row in map(json.loads, lines)}
    assert reasons[2] == "id is not a whole number"
    assert reasons[3] == "id is missing"
    assert reasons[4].startswith("not JSON: ")
    assert result.quarantined == dict.fromkeys(reasons.values(), 1)


def test_nobody_is_known_where_no_source_bears_the_key(tmp_path: Path, sets: list[str]) -> None:
    recipe = _recipe(tmp_path, "files", sets)
    purchase = recipe.model_copy(update={"feature_set": "purchase"})
    nothing = recipe.feature_store.batch_source.model_copy(update={"tables": {}})
    store = recipe.feature_store.model_copy(update={"batch_source": nothing})
    with pytest.raises(UsageError, match=r"No source of 'purchase' has its key") as caught:
        materialize(purchase.model_copy(update={"feature_store": store}))
    assert "online.entities" in caught.value.hint


def test_a_time_to_live_of_long_ago_finds_nobody(tmp_path: Path, sets: list[str]) -> None:
    recipe = _recipe(tmp_path, "files", [*sets, "feature_store.ttl=30d"])
    assert materialize(recipe).online_entities == 0
    assert open_online_store(recipe).read("customer", [1]) == [None]
    assert materialize(_recipe(tmp_path, "files", sets)).online_entities == 7
    with pytest.raises(ConfigError, match="no duration"):
        _recipe(tmp_path, "files", [*sets, "feature_store.ttl=soon"])


def _run(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["features", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_the_command_line_lists_versions_and_reads_them(tmp_path: Path, sets: list[str]) -> None:
    options = [word for one in sets for word in ("--set", one)]
    recipe = _recipe(tmp_path, "dataset", sets)
    materialize(recipe)
    middle = datetime.now(UTC).isoformat()
    materialize(recipe)
    listed = _run("versions", "customer", "--json", *options)
    assert [(one["version"], one["rows"], one["mode"]) for one in listed["versions"]] == [
        (1, 15, "dates"),
        (2, 15, "dates"),
    ]
    assert listed["versions"][0]["columns"]["frequency"] == "int64"
    out = tmp_path / "new" / "rows.parquet"
    read = ("rows", "customer", "--out", str(out), "--json", *options)
    assert _run(*read)["version"] == 2
    assert _run(*read, "--version", "1", "--end", "1997-05-01T00:00:00Z")["rows"] == 7
    assert pl.read_parquet(out).height == 7
    assert _run(*read, "--as-of", middle)["version"] == 1
