"""Fingerprints of recipes, optimizers by name, and the scaling config of Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tiny_llama import build_base
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.config import Settings, load_config
from sunloom.config.llm import LlmRecipe, Optimizer, TrainingConfig
from sunloom.errors import ConfigError, UsageError
from sunloom.llm.launch import build_scaling_config, count_steps
from sunloom.llm.optimizers import OPTIMIZERS
from sunloom.llm.planning import TrainingPlan, plan_training
from sunloom.llm.preparation import prepare
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
    assert fingerprint_of("retail_agent", "tool-base@1") == "35565691d8d326d4"
    all_steps = "training.early_stopping=null"
    assert fingerprint_of("retail_agent", "tool-base@1", all_steps) == "5d2319eb5fc1636c"
    assert fingerprint_of("retail_agent", "tool-base@1", all_steps, ZERO3) == "0d3458e884d14f5f"
    assert (
        recipe_fingerprint(LlmRecipe(training=TrainingConfig(method="full")), None)
        == "53d27335629d135d"
    )


def test_only_what_decides_the_weights_is_identity() -> None:
    before = fingerprint_of("tool_base", None)
    kept = ["training.accelerator=H100", "training.trackers=[]", "training.checkpoint_every=7"]
    kept += ["training.min_workers=1", "training.resize_interval_s=5"]
    assert fingerprint_of("tool_base", None, *kept) == before
    assert fingerprint_of("tool_base", None, "training.weight_decay=0.1") != before
    assert fingerprint_of("tool_base", None, "seed=1") != before
    adapter = fingerprint_of("retail_agent", "tool-base@1")
    assert fingerprint_of("retail_agent", "tool-base@1", "training.early_stopping=null") != adapter
    sooner = "evaluation.eval_steps=50"
    assert fingerprint_of("retail_agent", "tool-base@1", sooner) != adapter
    # Where nothing ends the run, evaluating during it decides nothing.
    assert fingerprint_of("tool_base", None, sooner, "evaluation.eval_sample=7") == before
    # Two variants at their defaults are two recipes.
    variants = ("optimizer={type: lion}", "optimizer={type: muon}", "schedule={type: linear}",
                "schedule={type: constant}")  # fmt: skip
    prints = {fingerprint_of("tool_base", None, f"training.{one}") for one in variants}
    assert len(prints | {before}) == 5


def test_what_is_asked_of_a_result_decides_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"prompt": "x"}')

    def fingerprint(safety: str, more: str = "") -> str:
        judge = f"evaluation.llm_judge={{base_url: x, model: y{more}}}"
        return fingerprint_of("retail_agent", "b@1", f"evaluation.safety=[{{{safety}}}]", judge)

    before = fingerprint(f"type: toxicity, path: {path}")
    more = ", retries: 1, api_key: k, min_win_rate: 0.5"
    assert fingerprint(f"type: toxicity, path: {path}, max_toxic: 0", more) == before
    assert fingerprint(f"type: leakage, path: {path}") != before
    assert fingerprint(f"type: toxicity, path: {path}", ", reasons: false") != before
    path.write_text('{"prompt": "y"}')
    assert fingerprint(f"type: toxicity, path: {path}") != before


def test_a_task_whose_questions_changed_is_another_recipe(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    sets = f"evaluation.custom_tasks=[{{name: own, path: {path}}}]"
    prints = []
    for answer in ("yes", "no", "yes"):
        path.write_text(f'{{"prompt": "Well?", "completion": "{answer}"}}')
        prints.append(fingerprint_of("retail_agent", "tool-base@1", sets))
    assert prints[0] == prints[2] != prints[1]


def test_the_recipe_that_the_platform_was_built_for_loads() -> None:
    path = Path(__file__).parents[2] / "data" / "recipes" / "llm.yaml"
    done = CliRunner().invoke(app, ["config", "check", str(path), "--kind", "llm"])
    assert done.exit_code == 0, done.output
    recipe = load_config(LlmRecipe, recipe=path, conf_dir=CONF, environ={}).config
    values = recipe.model_dump(mode="json")
    given = yaml.safe_load(path.read_text())
    # YAML reads 2e-4 as text.
    assert given["training"].pop("learning_rate") == "2e-4"
    assert recipe.training.learning_rate == 2e-4
    for section, keys in given.items():
        assert {key: values[section][key] for key in keys} == keys
    # It names no output: with the default, its adapter would pass for the small base model.
    assert (recipe.output.name, recipe.is_adapter) == ("llama-2-7b-hf-lora", True)
    assert (recipe.training.conversations_a_step, recipe.training.warmup_steps) == (128, 100)
    assert recipe.eval_steps == 100


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        ([], "tool-base"),
        (["training.method=full"], "tool-base"),
        (["model.base_model=shop@production", "training.method=full"], "shop-tuned"),
        (["model.base_model=/models/My_Model.v2/", "training.method=qlora"], "my-model-v2-lora"),
        (["model.base_model=a/b", "output.name=own"], "own"),
    ],
)
def test_a_result_without_a_name_is_called_after_its_base(sets: list[str], name: str) -> None:
    assert load_config(LlmRecipe, sets=sets, conf_dir=CONF).config.output.name == name


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["training.max_steps=5", "training.epochs=1"], "exclude each other"),
        (["training.epochs=1"], r"epochs takes files in data\.train"),
        (["training.optimizer={type: muon}", ZERO3], "muon takes distributed.type ddp or fsdp"),
        (["training.optimizer={type: adamw_8bit}"], "adamw_8bit takes distributed.type ddp"),
        (["training.method=qlora", ZERO3], "qlora takes"),
        (["training.optimizer={type: adam}"], r"training\.optimizer"),
        (["training.weight_decay_groups=[{match: '('}]"], "not a regular expression"),
        (["training.early_stopping.every=5"], r"It is now 'evaluation\.eval_steps'"),
        (["training.early_stopping.held_out=5"], r"It is now 'evaluation\.eval_sample'"),
        (
            ["evaluation.custom_tasks=[{name: a, path: b}, {name: a, path: c}]"],
            "two tasks have the same name",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(LlmRecipe, sets=sets, conf_dir=CONF)


@pytest.mark.parametrize("work", [plan_training, prepare])
def test_an_adapter_without_a_base_is_refused_at_once(work: Callable[[LlmRecipe], object]) -> None:
    recipe = load_config(LlmRecipe, sets=["lora.r=4"], conf_dir=CONF).config
    with pytest.raises(UsageError, match=r"needs model\.base_model"):
        work(recipe)


def test_a_plan_counts_dora_and_modules_that_are_trained_whole(
    settings: Settings, tmp_path: Path
) -> None:
    base = build_base(tmp_path / "base", tied=True)

    def plan_with(*sets: str) -> TrainingPlan:
        chosen = [f"model.base_model={base}", f"paths.state={settings.paths.state}", "lora.r=4"]
        chosen += ["training.distributed={type: ddp}", *sets]
        return plan_training(load_config(LlmRecipe, sets=chosen, conf_dir=CONF).config)

    plain = plan_with()
    dora = plan_with("lora.use_dora=true")
    # Of each layer: q, k, v, o and down of 64 columns, gate and up of 128.
    assert dora.trained_parameters - plain.trained_parameters == 2 * (5 * 64 + 2 * 128)
    assert dora.parameters == plain.parameters
    saved = plan_with("lora.modules_to_save=[embed_tokens]")
    added = saved.trained_parameters - plain.trained_parameters
    assert added == 284 * 64
    # Weights, gradients, two moments, and the checkpoint's copy of weights and moments.
    parts = ("weights", "optimizer", "checkpoint")
    more, less = (sum(plan.memory_parts[part] for part in parts) for plan in (saved, plain))
    assert more - less == 28 * added
    # What DoRA's norms and scales are made from stays until the backward pass, too.
    assert dora.memory_parts["activations"] > plain.memory_parts["activations"]
    assert sum(dora.memory_parts.values()) == dora.memory_bytes_per_worker
    with pytest.raises(UsageError, match="no module 'embed_token_'") as caught:
        plan_with("lora.modules_to_save=[embed_token_]")
    assert "embed_tokens" in str(caught.value.hint)
    with pytest.raises(UsageError, match="'q_proj' would be held in 4 bits"):
        plan_with("lora.modules_to_save=[q_proj]", "training.method=qlora")


@pytest.mark.parametrize(
    ("sets", "is_judged"),
    [
        ((), False),
        (("evaluation.held_out=4", "evaluation.min_exact_match=null"), False),
        (("evaluation.min_exact_match=0.5",), True),
        (("evaluation.min_whole=0.5",), True),
        (("evaluation.custom_tasks=[{name: a, path: b}]",), True),
        (("model.base_model=tool-base",), True),
    ],
)
def test_a_model_from_random_weights_is_judged_where_a_bar_is_named(
    sets: tuple[str, ...], is_judged: bool
) -> None:
    chosen = ["training.method=full", *sets]
    assert load_config(LlmRecipe, sets=chosen, conf_dir=CONF).config.is_judged is is_judged


def test_epochs_are_counted_in_whole_batches() -> None:
    sets = ["data.train=[{path: own.jsonl}]", "training.batch_size=2", "training.workers=2"]
    sets += ["training.gradient_accumulation_steps=2"]

    def steps_of(epochs: float, rows: int) -> int:
        chosen = [*sets, f"training.epochs={epochs}"]
        recipe = load_config(LlmRecipe, sets=chosen, conf_dir=CONF).config
        return count_steps(recipe, rows).training.max_steps

    # Eight conversations a step; what is left over of a pass is left out.
    assert [steps_of(1, 83), steps_of(3, 83), steps_of(0.5, 83)] == [10, 30, 5]
    # Fewer than a step: the pass is one step.
    assert [steps_of(2, 3), steps_of(0.01, 83)] == [2, 1]


def test_the_schema_knows_every_optimizer_of_the_table() -> None:
    assert set(get_args(get_args(Optimizer)[0])) == set(OPTIMIZERS)


@pytest.mark.parametrize("accelerator", [None, "H100"])
def test_the_scaling_config_requests_the_accelerator(accelerator: str | None) -> None:
    config = TrainingConfig(workers=3, use_gpu=True, accelerator=accelerator)
    scaling = build_scaling_config(config)
    assert (scaling.num_workers, scaling.accelerator_type) == (3, accelerator)
    assert scaling.resources_per_worker == {"CPU": 1, "GPU": 1}


def test_elastic_training_asks_for_a_range_of_workers() -> None:
    config = TrainingConfig(workers=3, min_workers=2, resize_interval_s=5)
    scaling = build_scaling_config(config)
    assert scaling.num_workers == (2, 3)
    assert scaling.elastic_resize_monitor_interval_s == 5
    assert config.conversations_a_step == 3 * config.batch_size
    refused = {
        "must not be more than workers": ["training.workers=1"],
        "min_workers takes distributed.type ddp or fsdp": [ZERO3],
    }
    for message, sets in refused.items():
        with pytest.raises(ConfigError, match=message):
            load_config(LlmRecipe, sets=["training.min_workers=2", *sets], conf_dir=CONF)
