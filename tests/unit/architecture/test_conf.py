"""Every file under conf/ loads through the class of its kind, and its reference is current."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sunloom.cli.config import KINDS, kind_of, recipe_class, render_reference
from sunloom.config import Settings, load_config
from sunloom.config.loading.load import ENVIRONMENTS

CONF = Path(__file__).parents[3] / "conf"
RECIPES = sorted(CONF.glob("*/*.yaml"))
OF_KINDS = [path for path in RECIPES if path.parent.name in KINDS]


def test_every_folder_is_known() -> None:
    folders = {path.parent.name for path in RECIPES}
    assert folders - set(KINDS) - {"env", "serve"} == set()


@pytest.mark.parametrize("path", OF_KINDS, ids=lambda path: str(path.relative_to(CONF)))
def test_a_recipe_loads(path: Path) -> None:
    kind = kind_of(path)
    assert kind is not None
    assert load_config(recipe_class(kind), recipe=path, conf_dir=CONF, environ={}).config


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_recipe(kind: str) -> None:
    assert [path for path in OF_KINDS if path.parent.name == kind]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_an_environment_loads_and_is_chosen(env: str) -> None:
    loaded = load_config(Settings, env=env, conf_dir=CONF, environ={})
    assert loaded.config.environment == env


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_an_environment_holds_only_differences(env: str) -> None:
    base = yaml.safe_load((CONF / "base.yaml").read_text()) or {}
    own = yaml.safe_load((CONF / "env" / f"{env}.yaml").read_text()) or {}
    assert [key for key, value in own.items() if base.get(key) == value] == []


@pytest.mark.parametrize("path", sorted(CONF.glob("serve/*.yaml")), ids=lambda path: path.name)
def test_a_serve_file_passes_rays_schema(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    for application in schema.applications:
        module, _, function = application.import_path.partition(":")
        source = CONF.parent / f"{module.replace('.', '/')}.py"
        assert f"def {function}(" in source.read_text()


def test_the_reference_is_current() -> None:
    assert (CONF / "README.md").read_text() == render_reference(), (
        "run: sunloom config reference --write"
    )
