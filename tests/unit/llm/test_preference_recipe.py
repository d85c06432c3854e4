"""Recipes of preferences: what they refuse before any work, and what a run takes over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunloom.config import Settings, load_config
from sunloom.config.llm import EvaluationConfig, LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import ConfigError, DataError, UsageError
from sunloom.evaluation.gate import decide
from sunloom.llm.base_models import resolve_adapter
from sunloom.llm.checkpoints import seal
from sunloom.llm.conversation_split import load_split
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.resuming import START_FILE, TOKENS, RunIdentity, claim_run, continue_unfinished
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import recipe_fingerprint

FILES = "data.train=[{path: a.jsonl}]"
BASE = "model.base_model=tool-base"
DPO, REWARD = "training.objective={type: dpo}", "training.objective={type: reward}"


def recipe_of(*sets: str) -> LlmRecipe:
    return load_config(LlmRecipe, sets=list(sets), conf_dir=Path("conf"), environ={}).config


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((BASE, DPO), "dpo takes files in data.train"),
        ((BASE, DPO, FILES, "evaluation.conversations=generic"), "no evaluation.conversations"),
        ((BASE, DPO, FILES, "training.label_smoothing=0.1"), "takes objective.type sft"),
        (
            (BASE, DPO, FILES, "training.early_stopping={}", "training.distributed={type: ddp}"),
            "exact_match takes objective.type sft",
        ),
        ((BASE, FILES, "training.objective={type: dpoo}"), r"training\.objective"),
        ((BASE, FILES, "training.objective={type: orpo, label_smoothing: 0.1}"), "label_smoothing"),
        ((BASE, FILES, "training.objective={type: dpo, label_smoothing: 0.5}"), "less than 0.5"),
        ((REWARD, FILES, "training.method=full"), "reward takes model.base_model"),
        ((BASE, REWARD, FILES, "model.adapter=a"), "no model.adapter"),
        ((BASE, REWARD, FILES, "evaluation.benchmarks=[arc]"), "evaluation.benchmarks"),
        ((BASE, REWARD, FILES, "training.method=qlora"), "takes method lora or full"),
        (("model.adapter=a",), "model.adapter takes model.base_model"),
        ((BASE, "model.adapter=a", "training.method=full"), "training.method lora or qlora"),
    ],
)
def test_what_does_not_go_together_is_refused(sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe_of(*sets)


def test_an_objective_and_a_start_are_part_of_what_a_model_is() -> None:
    prints = {
        recipe_fingerprint(recipe_of(BASE, FILES, *more), "tool-base@1")
        for more in (
            (),
            ("training.objective={type: sft}",),
            (DPO,),
            ("training.objective={type: ipo}",),
            ("training.objective={type: dpo, beta: 0.2}",),
            (DPO, "model.adapter=a@1"),
            (DPO, "model.adapter=a@2"),
        )
    }
    assert len(prints) == 6


def test_an_adapter_is_trained_on_where_its_base_and_shape_are_those_of_the_recipe(
    settings: Settings, tmp_path: Path
) -> None:
    registry, folder = open_registry(settings), tmp_path / "m"
    folder.mkdir()
    stored = {"r": 4, "lora_alpha": 12, "use_rslora": True, "use_dora": True}
    stored |= {"modules_to_save": ["norm", "lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(stored))
    registry.register("tool-base", "llm", folder)
    registry.register("ours", "adapter", folder, lineage={"base": "tool-base@1"})
    recipe, path = resolve_adapter(recipe_of(BASE, "model.adapter=ours"), registry, "tool-base@1")
    assert path == registry.path(registry.get("ours@1"))
    assert recipe.model.adapter == "ours@1"
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.use_rslora) == (4, 12, True)
    assert (recipe.lora.use_dora, recipe.lora.modules_to_save) == (True, ("lm_head", "norm"))
    plain = recipe_of(BASE)
    assert resolve_adapter(plain, registry, "tool-base@1") == (plain, None)
    for sets, base, said in (
        (("model.adapter=tool-base",), "tool-base@1", "of the kind llm"),
        (("model.adapter=ours",), "tool-base@2", "an adapter on tool-base@1"),
        (("model.adapter=ours", "lora.r=8"), "tool-base@1", r"has lora\.r 4"),
        (("model.adapter=ours", "lora.use_dora=false"), "tool-base@1", r"has lora\.use_dora True"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve_adapter(recipe_of(BASE, *sets), registry, base)


def test_a_gate_takes_the_accuracy_less_its_error() -> None:
    judged = {"adapter_preference_accuracy": 0.66, "preference_error": 0.05}
    (said,) = decide(judged, EvaluationConfig(min_preference_accuracy=0.62), "production").failures
    assert "0.660, less its standard error 0.050, is below 0.620" in said
    assert (
        decide(judged, EvaluationConfig(min_preference_accuracy=0.6), "production").failures == ()
    )
    assert (
        decide(judged, EvaluationConfig(min_preference_accuracy=None), "production").failures == ()
    )
    losses = {"base_loss": 0.693, "adapter_loss": 0.7}
    (said,) = decide(judged | losses, EvaluationConfig(), "production").failures
    assert "adapter_loss 0.700 is above 1 times the base's 0.693" in said


def test_held_out_feedback_of_one_kind_is_refused_before_the_first_step(
    settings: Settings, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}?", "completion": f"{n} m.", "label": True} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    file = f"data.train=[{{path: {tmp_path / 'a.jsonl'}}}]"
    recipe = recipe_of(BASE, file, "training.objective={type: kto}", *paths)
    tokenizer: Any = build_tokenizer(
        conversation_texts(GenericConversations().train(60, 0)), 400, 512
    )
    split = load_split(recipe)
    with pytest.raises(DataError, match="all desirable, or all undesirable"):
        split.require_judgeable(tokenizer, 64)


def test_an_unfinished_run_keeps_the_scores_of_its_start(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / TOKENS).mkdir(parents=True)
    np.save(first / TOKENS / START_FILE, np.ones((3, 2), np.float32))
    mine = RunIdentity("f", "d", None)
    with pytest.raises(InterruptedError), claim_run(first, mine):
        raise InterruptedError
    checkpoint = first / "train" / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    seal(checkpoint, rank=0, world_size=1, step=3)
    recipe = recipe_of(BASE, FILES, DPO)
    assert continue_unfinished(recipe, second, mine).training.resume_from == first
    assert np.load(second / TOKENS / START_FILE).tolist() == [[1.0, 1.0]] * 3
    # Where the recipe names a run, its rows may be others.
    (second / TOKENS / START_FILE).unlink()
    training = recipe.training.model_copy(update={"resume_from": first})
    continue_unfinished(recipe.model_copy(update={"training": training}), second, mine)
    assert not (second / TOKENS / START_FILE).exists()
