"""Recipes of features: names of keys, what a command needs, and secrets that are not printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.config import load_config
from sunloom.config.data import SnowflakeSource
from sunloom.config.features import ChalkConfig, FeaturesConfig, FeaturesRecipe
from sunloom.config.preprocessing.transformations import ShortForm
from sunloom.errors import ConfigError

URL = "snowflake://ann:pass%40word@acme-x1/SHOP/PUBLIC?warehouse=WH&role=ANALYST"
LOGIN = {"account": "acme-x1", "user": "ann", "password": "pass@word"}
PLACE = {"database": "SHOP", "schema": "PUBLIC", "warehouse": "WH", "role": "ANALYST"}


@pytest.mark.parametrize(
    "fields",
    [
        {"connection_string": URL},
        LOGIN | PLACE,
        {"connection_string": "snowflake://ann@acme-x1.snowflakecomputing.com:443/SHOP"}
        | {name: (LOGIN | PLACE)[name] for name in ("password", "schema", "warehouse", "role")},
    ],
)
def test_the_url_and_the_fields_of_snowflake_say_the_same(fields: dict[str, str]) -> None:
    assert SnowflakeSource.model_validate(fields).connection_options() == LOGIN | PLACE


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"connection_string": URL, "warehouse": "OTHER"}, "warehouse is in connection_string and"),
        ({"connection_string": URL, "schema": "PUBLIC"}, "schema is in connection_string and"),
        ({"connection_string": URL + "&schema=S"}, "schema is in connection_string twice"),
        ({"connection_string": "snowflake://acme/SHOP"}, "user is missing"),
        ({"connection_string": "postgresql://ann:secret@host/db"}, "begin with snowflake://"),
        ({"user": "ann"}, "account is missing"),
    ],
)
def test_a_login_that_is_ambiguous_or_incomplete_is_refused(
    fields: dict[str, str], problem: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        SnowflakeSource.model_validate(fields)
    [error] = caught.value.errors()
    assert problem in error["msg"]
    assert not any(secret in error["msg"] for secret in ("pass%40word", "pass@word", "secret"))


@pytest.mark.parametrize(
    ("written", "sent"),
    [("api.chalk.ai", "https://api.chalk.ai"), ("http://127.0.0.1:80", "http://127.0.0.1:80")],
)
def test_an_api_server_without_a_scheme_is_reached_by_https(written: str, sent: str) -> None:
    assert ChalkConfig(environment="development", api_server=written).api_server == sent


SOURCES = """
feature_store:
  batch_source: {type: files}
  streaming_source: {type: kafka, bootstrap_servers: "k:9092"}
"""


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_what_only_some_commands_need_is_required_by_them(tmp_path: Path) -> None:
    path = _recipe(tmp_path, SOURCES)
    assert load_config(FeaturesConfig, recipe=path).config.definitions is None
    with pytest.raises(ConfigError) as caught:
        load_config(FeaturesRecipe, recipe=path)
    missing = [f"{path}: key 'definitions' is missing.", f"{path}: key 'feature_set' is missing."]
    assert caught.value.message.splitlines() == missing
    sets = ["definitions=retail", "feature_set=customer"]
    recipe = load_config(FeaturesRecipe, recipe=path, sets=sets).config
    with pytest.raises(ConfigError, match=r"no feature_store\.streaming_source\.topics"):
        recipe.kafka_source()


def test_a_target_is_required_where_an_encoding_learns_from_it() -> None:
    form = {"categorical_encoding": {"method": "target_encoding", "smoothing": 1.0}}
    with pytest.raises(ConfigError, match=r"no transformations\.target"):
        ShortForm.model_validate(form).require_target()
    ShortForm.model_validate(form | {"target": "label"}).require_target()


STREAMED = "feature_store.streaming_source"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"{STREAMED}.brokers=k:1", f"{STREAMED}.bootstrap_servers"),
        ("validation.drift_method=psi", "validation.drift_detection.method"),
        ("validation.drift_per_column.a.method=psi", "validation.drift_detection.per_column"),
        ("validation.uniqueness_threshold=1", "validation.quality_checks.uniqueness_threshold"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    path = _recipe(tmp_path, SOURCES)
    with pytest.raises(ConfigError, match=f"It is now '{new}'"):
        load_config(FeaturesConfig, recipe=path, sets=[old])


def test_the_recipe_that_the_platform_was_built_for_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "data" / "recipes" / "features.yaml"
    monkeypatch.setenv("SNOWFLAKE_CONNECTION", URL)
    monkeypatch.setenv("KAFKA_SERVERS", "k1:9092,k2:9092")
    done = CliRunner().invoke(app, ["config", "show", str(path), "--kind", "features", "--json"])
    assert done.exit_code == 0
    assert "pass%40word" not in done.output
    values = {key: entry["value"] for key, entry in json.loads(done.stdout).items()}
    expected = {
        "chalk.project_id": "your-project",
        "chalk.environment": "development",
        "chalk.api_server": "https://api.chalk.ai",
        "feature_store.batch_source.type": "snowflake",
        "feature_store.batch_source.connection_string": "**********",
        "feature_store.streaming_source.type": "kafka",
        "feature_store.streaming_source.bootstrap_servers": "k1:9092,k2:9092",
        "transformations.categorical_encoding.method": "target_encoding",
        "transformations.categorical_encoding.smoothing": 1.0,
        "transformations.numerical_scaling.method": "robust_scaler",
        "transformations.missing_values.strategy": "iterative_imputer",
        "validation.drift_detection.method": "evidently",
        "validation.drift_detection.threshold": 0.1,
        "validation.quality_checks.completeness_threshold": 0.95,
        "validation.quality_checks.uniqueness_threshold": 0.99,
    }
    assert {key: values.get(key) for key in expected} == expected
