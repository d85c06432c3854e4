"""Assignments of ``sunloom demo`` reach the recipes that have their keys."""

import pytest

from sunloom.config.settings import Settings
from sunloom.errors import ConfigError
from sunloom.workflows.demo.recipes import load_demo_recipes, relevant_assignments


def test_each_recipe_takes_the_assignments_it_has_keys_for() -> None:
    sets = ("seed=7", "model.torch_dtype=float32", "serving.llm.dtype=float32")
    recipes = load_demo_recipes(sets)
    assert recipes.base_model.model.torch_dtype == "float32"
    assert recipes.adapter.model.torch_dtype == "float32"
    assert recipes.features.seed == recipes.tabular.seed == recipes.adapter.seed == 7
    assert recipes.agents.serving.llm.dtype == "float32"
    assert relevant_assignments(Settings, sets) == ["seed=7", "serving.llm.dtype=float32"]


def test_a_key_that_no_recipe_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"training\.dtipe"):
        load_demo_recipes(("training.dtipe=float32",))
    assert relevant_assignments(Settings, ("sed=7",)) == ["sed=7"]
