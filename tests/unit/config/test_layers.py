"""Precedence, origins, references and what bad input answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, SecretStr

from sunloom.config import Model, Settings, load_config, save_resolved
from sunloom.config.loading.model import dump_with_secrets
from sunloom.errors import ConfigError, UsageError


class Small(Model):
    type: Literal["small"] = "small"
    width: int = 1


class Large(Model):
    type: Literal["large"] = "large"
    height: int = 2


class ToyRecipe(Settings):
    shape: Annotated[Small | Large, Field(discriminator="type")] = Small()
    steps: int = 10


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    (folder / "env").mkdir(parents=True)
    (folder / "base.yaml").write_text("seed: 1\nserving: {port: 8001}\n")
    (folder / "env" / "staging.yaml").write_text("seed: 2\nserving: {host: 0.0.0.0}\n")
    (folder / "recipe.yaml").write_text("seed: 3\nsteps: 30\n")
    return folder


def load(conf: Path, **options: object):
    options = {"environ": {}, "conf_dir": conf} | options
    return load_config(ToyRecipe, **options)


def test_each_layer_beats_the_ones_below(conf: Path) -> None:
    assert load(conf).config.seed == 1
    assert load(conf, env="staging").config.seed == 2
    recipe = conf / "recipe.yaml"
    assert load(conf, env="staging", recipe=recipe).config.seed == 3
    environ = {"SUNLOOM__SEED": "4"}
    assert load(conf, env="staging", recipe=recipe, environ=environ).config.seed == 4
    chain = {"env": "staging", "recipe": recipe, "environ": environ, "sets": ["seed=5"]}
    assert load(conf, **chain).config.seed == 5


def test_an_empty_variable_counts_as_not_set(conf: Path) -> None:
    environ = {"SUNLOOM__SEED": "", "SUNLOOM__TELEMETRY__WEBHOOK__URL": ""}
    loaded = load(conf, environ=environ).config
    assert (loaded.seed, loaded.telemetry.webhook) == (1, None)


def test_layers_merge_inside_a_section_and_keep_origins(conf: Path) -> None:
    loaded = load(conf, env="staging", sets=["steps=7"])
    assert (loaded.config.serving.host, loaded.config.serving.port) == ("0.0.0.0", 8001)
    assert loaded.origin("serving.host").endswith("staging.yaml")
    assert loaded.origin("serving.port").endswith("base.yaml")
    assert loaded.origin("steps") == "--set steps"
    assert loaded.origin("cluster.address") == "default"


def test_a_new_variant_drops_the_old_ones_keys(conf: Path) -> None:
    (conf / "recipe.yaml").write_text("shape: {type: small, width: 9}\n")
    loaded = load(conf, recipe=conf / "recipe.yaml", sets=["shape={type: large}"])
    assert loaded.config.shape == Large(height=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("serving: {prot: 1}\n", "'serving.port'"),
        ("stepps: 1\n", "'steps'"),
        ("shape: {type: small, widht: 1}\n", "'shape.width'"),
    ],
)
def test_an_unknown_key_names_file_key_and_nearest(conf: Path, text: str, expected: str) -> None:
    path = conf / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="Did you mean") as caught:
        load(conf, recipe=path)
    assert expected in str(caught.value)
    assert "recipe.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_listed_at_once(conf: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(conf, sets=["seed=x", "stepps=1"])
    assert "'seed'" in str(caught.value)
    assert "'stepps'" in str(caught.value)


def test_references_read_variables_and_files(conf: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sqlite:///from-file.db\n")
    (conf / "recipe.yaml").write_text(f"database: {{url: '${{file:{secret}}}'}}\nsteps: ${{N}}\n")
    loaded = load(conf, recipe=conf / "recipe.yaml", environ={"N": "12"})
    assert loaded.config.steps == 12
    assert loaded.config.database_url() == "sqlite:///from-file.db"


def test_a_missing_variable_names_file_key_and_variable(conf: Path) -> None:
    (conf / "recipe.yaml").write_text("database: {url: '${SUNLOOM_DB}'}\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml, key database.url.*SUNLOOM_DB"):
        load(conf, recipe=conf / "recipe.yaml")


def test_a_missing_recipe_lists_what_is_there(conf: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        load(conf, recipe=conf / "recipee.yaml")


def test_variables_of_other_recipes_are_no_error(conf: Path) -> None:
    environ = {"SUNLOOM__STEPS": "3"}
    assert load(conf, environ=environ).config.steps == 3
    assert load_config(Settings, conf_dir=conf, environ=environ).config.seed == 1
    with pytest.raises(ConfigError, match="nonsense"):
        load_config(Settings, conf_dir=conf, environ={"SUNLOOM__NONSENSE": "3"})


def test_secrets_are_masked_in_the_saved_copy(conf: Path, tmp_path: Path) -> None:
    config = load(conf, sets=["database.url=postgresql://u:hunter2@h/d"]).config
    saved = save_resolved(config, tmp_path / "run").read_text()
    assert "hunter2" not in saved
    assert "hunter2" not in repr(config)
    assert yaml.safe_load(saved)["steps"] == 10
    again = ToyRecipe.model_validate(dump_with_secrets(config))
    assert again.database.url == SecretStr("postgresql://u:hunter2@h/d")


@pytest.mark.parametrize(
    "assignment",
    [
        "telemetry.webhook.url=ftp://hooks/hunter2",
        'telemetry.webhook={"url": "http://h", "headers": {"X-Token": ["hunter2"]}}',
        'telemetry.webhook={"url": "http://h", "secret": ["hunter2"]}',
        "database.url=[hunter2]",
        'feature_store.online={"type": "redis", "url": "redis://user:hunter2@h/0"}',
    ],
)
def test_no_problem_shows_a_secret(conf: Path, assignment: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(Settings, sets=[assignment], conf_dir=conf, environ={})
    assert "hunter2" not in str(refused.value)
    assert assignment.partition("=")[0].split(".")[0] in str(refused.value)


def test_relative_paths_lie_below_sunloom_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNLOOM_HOME", "/srv/sunloom")
    config = load_config(Settings, environ={"SUNLOOM_CONF": str(Path(__file__).parent)}).config
    assert config.paths.state == Path("/srv/sunloom/.sunloom")
    assert config.paths.outputs == Path("/srv/sunloom/outputs")


def test_an_unknown_environment_is_refused(conf: Path) -> None:
    with pytest.raises(ConfigError, match="prod"):
        load(conf, env="prod")
