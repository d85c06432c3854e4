"""The shipped base model: its record is that of its recipe."""

from __future__ import annotations

from pathlib import Path

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe
from sunloom.llm.trainer import recipe_fingerprint
from sunloom_retail.base_model import FOLDER, RECIPE, read_record

CONF = Path(__file__).parents[3] / "conf"


def test_the_record_is_that_of_the_recipe() -> None:
    path = CONF.parent / RECIPE
    recipe = load_config(LlmRecipe, recipe=path, conf_dir=CONF, environ={}).config
    record = read_record()
    assert record.recipe_fingerprint == recipe_fingerprint(recipe, None)
    assert len(record.losses) == recipe.training.max_steps
    # Rounding the weights to bfloat16 cost nothing.
    assert record.exact_match["calls"] >= record.float32_exact_match["calls"] - 0.01
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(record.sha256) | {"record.json", "README.md"} == set(files)
    assert sum(files.values()) < 6e6
