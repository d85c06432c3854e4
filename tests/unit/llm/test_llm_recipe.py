"""Fingerprints of recipes, optimizers by name, and the scaling config of Ray Train."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe, TrainingConfig
from sunloom.llm.launch import build_scaling_config
from sunloom.llm.optimization import OPTIMIZERS
from sunloom.llm.trainer import recipe_fingerprint

CONF = Path(__file__).parents[3] / "conf"
ZERO3 = "training.distributed={type: deepspeed, zero_stage: 3}"


def fingerprint_of(name: str, base: str | None, *sets: str) -> str:
    recipe = load_config(
        LlmRecipe, recipe=CONF / "llm" / f"{name}.yaml", sets=sets, conf_dir=CONF, environ={}
    )
    return recipe_fingerprint(recipe.config, base)


def test_models_registered_by_earlier_versions_are_still_found() -> None:
    """The values were computed before keys at their default were left out."""
    assert fingerprint_of("tool_base", None) == "f831aacca99624b3"
    assert fingerprint_of("tool_base", None, ZERO3) == "5d13478e041e7e98"
    all_steps = "training.early_stopping=null"
    assert fingerprint_of("retail_agent", "tool-base@1", all_steps) == "5d2319eb5fc1636c"
    assert fingerprint_of("retail_agent", "tool-base@1", all_steps, ZERO3) == "0d3458e884d14f5f"
    assert (
        recipe_fingerprint(LlmRecipe(training=TrainingConfig(method="full")), None)
        == "53d27335629d135d"
    )


def test_only_what_decides_the_weights_is_identity() -> None:
    before = fingerprint_of("tool_base", None)
    kept = ("training.accelerator=H100", "training.trackers=[]", "training.checkpoint_every=7")
    assert fingerprint_of("tool_base", None, *kept) == before
    assert fingerprint_of("tool_base", None, "training.weight_decay=0.1") != before
    assert fingerprint_of("tool_base", None, "seed=1") != before
    adapter = fingerprint_of("retail_agent", "tool-base@1")
    assert fingerprint_of("retail_agent", "tool-base@1", "training.early_stopping=null") != adapter
    sooner = "training.early_stopping.every=50"
    assert fingerprint_of("retail_agent", "tool-base@1", sooner) != adapter


def test_the_schema_knows_every_optimizer_of_the_table() -> None:
    assert set(get_args(TrainingConfig.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


@pytest.mark.parametrize("accelerator", [None, "H100"])
def test_the_scaling_config_requests_the_accelerator(accelerator: str | None) -> None:
    config = TrainingConfig(workers=3, use_gpu=True, accelerator=accelerator)
    scaling = build_scaling_config(config)
    assert (scaling.num_workers, scaling.accelerator_type) == (3, accelerator)
    assert scaling.resources_per_worker == {"CPU": 1, "GPU": 1}
