"""Judge, schedule, probe, plan and starting weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunloom.config import load_config
from sunloom.config.llm import Architecture, LlmRecipe, ModelConfig, TrainingConfig
from sunloom.core.model_registry import open_registry
from sunloom.errors import ConfigError, NotFoundError, UsageError
from sunloom.llm.base_models import resolve_model
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import Encoded, render
from sunloom.llm.evaluation import ExactMatch, exact_match, is_clearly_above, parse_calls
from sunloom.llm.loop import (
    TrainingTask,
    divide_step,
    plan_batches,
    run_worker,
    split_evenly,
)
from sunloom.llm.models import build_llama, load_model, load_tokenizer
from sunloom.llm.optimization import learning_rate
from sunloom.llm.planning import plan_training
from sunloom.llm.probe import probe_dtype
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import train_adapter
from sunloom_retail.conversations import RetailConversations

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(conversation_texts(GenericConversations().train(300, 0)), 700, 512)


def test_exact_match_counts_turns_and_whole_conversations(tokenizer: Any) -> None:
    held_out = RetailConversations().held_out(10, 0)
    texts = {}
    for conversation in held_out:
        whole = render(tokenizer, conversation)
        for part in whole.split("<|assistant|>")[1:]:
            texts[whole[: whole.index(part)]] = part.split("<|end|>")[0]

    def perfect(prompts: Sequence[str]) -> list[str]:
        return [texts[prompt] for prompt in prompts]

    def wrong_number(prompts: Sequence[str]) -> list[str]:
        return [texts[prompt].replace("entity_id", "entity") for prompt in prompts]

    best = exact_match(perfect, tokenizer, held_out)
    assert (best.calls, best.answers, best.whole, best.held_out) == (1.0, 1.0, 1.0, 10)
    assert len(best.examples) == 20
    worst = exact_match(wrong_number, tokenizer, held_out)
    assert (worst.calls, worst.answers, worst.whole) == (0.0, 1.0, 0.0)
    # For a report: the same shares, of the rows behind them.
    measured = {one.figure: one for one in worst.measure()}
    assert {name: (one.mean, len(one.values)) for name, one in measured.items()} == {
        "exact_match.calls": (0.0, 10),
        "exact_match.answers": (1.0, 10),
        "exact_match.whole": (0.0, 10),
    }


def test_calls_are_read_whatever_their_spacing() -> None:
    text = '<tool_call>\n{"name":"f","arguments":{"x":1}}\n</tool_call>'
    assert parse_calls(text) == [("f", {"x": 1})]
    assert parse_calls('<tool_call>{"name": "f"}</tool_call>') == []
    assert parse_calls("no call") == []
    assert ExactMatch(0, 0, 0, 0, ()).examples == ()


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = TrainingConfig(max_steps=100, warmup_ratio=0.1, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == pytest.approx(1.0)
    assert learning_rate(55, config) == pytest.approx(0.505)
    assert learning_rate(99, config) < 0.02


def test_the_plan_of_batches_repeats_with_other_orders() -> None:
    config = TrainingConfig(max_steps=25, batch_size=1, gradient_accumulation_steps=2)
    plan = plan_batches(list(range(10, 50)), config, 7)
    assert len(plan) == 25
    assert plan == plan_batches(list(range(10, 50)), config, 7)
    first, second = plan[:10], plan[10:20]
    assert sorted(chain.from_iterable(first)) == list(range(40))
    assert sorted(chain.from_iterable(second)) == list(range(40))
    assert first != second


def test_the_probe_measures_and_remembers(tmp_path: Path) -> None:
    probe = probe_dtype(tmp_path)
    assert probe.float32_gflops > 0
    assert probe.bfloat16_gflops > 0
    faster = probe.bfloat16_gflops > 1.3 * probe.float32_gflops
    assert probe.dtype == ("bfloat16" if faster else "float32")
    assert json.loads((tmp_path / "dtype_probe.json").read_text()) == asdict(probe)


def test_one_starved_moment_does_not_choose_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a busy process the first turn in float32 once had a tenth of its true speed."""
    from sunloom.llm import probe

    turns = iter([6.0, 17.0, 60.0, 18.0, 61.0, 19.0])
    monkeypatch.setattr(probe, "_gflops", lambda *_: next(turns))
    found = probe._measure.__wrapped__()
    assert (found.dtype, found.float32_gflops, found.bfloat16_gflops) == ("float32", 61.0, 19.0)
    # A clear ratio needs one turn.
    turns = iter([60.0, 0.8])
    assert probe._measure.__wrapped__().dtype == "float32"


@pytest.mark.parametrize("circuit", [True, False])
def test_the_starting_weights_copy_what_stood_before(circuit: bool, tokenizer: Any) -> None:
    import torch

    shape = Architecture(copying_circuit=circuit)
    model = build_llama(shape, tokenizer, 0).eval()
    generator = torch.Generator().manual_seed(1)
    half = torch.randint(270, len(tokenizer), (8, 20), generator=generator)
    ids = torch.cat([half, half], dim=1)
    with torch.no_grad():
        scores = model(ids).logits.log_softmax(-1)
    right = scores[:, 20:39].gather(-1, ids[:, 21:, None]).mean().item()
    chance = -torch.log(torch.tensor(float(len(tokenizer)))).item()
    assert (right - chance > 0.5) is circuit


def test_a_folder_of_ours_loads_as_any_hugging_face_model(tokenizer: Any, tmp_path: Path) -> None:
    model = build_llama(Architecture(), tokenizer, 0)
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    again = load_model(str(tmp_path))
    assert type(again).__name__ == "LlamaForCausalLM"
    assert all((a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert load_tokenizer(str(tmp_path)).chat_template == tokenizer.chat_template
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_workers_load_the_model_as_the_recipe_says(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    folder = tmp_path / "own"
    build_llama(Architecture(), tokenizer, 0).save_pretrained(str(folder))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    task = TrainingTask(
        model=str(folder), base="", data=tmp_path, directory=tmp_path, pad=0, seed=0, lora=None,
        training=TrainingConfig(), options=ModelConfig(torch_dtype="float32"),
    )  # fmt: skip
    with pytest.raises(UsageError, match="No model can be loaded"):
        run_worker({"task": task})
    # Loaded, and stopped because this process is no worker.
    with pytest.raises(RuntimeError, match="outside of a Ray Train training function"):
        options = ModelConfig(torch_dtype="float32", trust_remote_code=True)
        run_worker({"task": replace(task, options=options)})


def test_a_model_is_a_folder_a_reference_or_a_hub_id(settings: Any, tmp_path: Path) -> None:
    registry = open_registry(settings)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    registry.register("tool-base", "llm", tmp_path / "m")
    folder = str(tmp_path / "m")
    assert resolve_model(ModelConfig(base_model=folder), registry) == (folder, folder)
    assert resolve_model(ModelConfig(base_model="tool-base"), registry)[1] == "tool-base@1"
    hub = "Qwen/Qwen3-0.6B"
    assert resolve_model(ModelConfig(base_model=hub), registry) == (hub, hub)
    with pytest.raises(NotFoundError, match="tool-base"):
        resolve_model(ModelConfig(base_model="tool-bse"), registry)
    with pytest.raises(UsageError, match="No model can be loaded"):
        load_model(folder)
    registry.register("retail-agent", "adapter", tmp_path / "m")
    with pytest.raises(UsageError, match="retail-agent@1 is of the kind adapter"):
        resolve_model(ModelConfig(base_model="retail-agent"), registry)


def test_a_training_whose_name_is_another_models_fails_before_its_work(
    settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    registry = open_registry(settings)
    registry.register("tool-base", "llm", tmp_path / "m")
    registry.register("theirs", "adapter", tmp_path / "m", tenant="acme")
    paths = {"paths": settings.paths, "model": {"base_model": "tool-base"}}
    for name, said in (("tool-base", "is a base language model"), ("theirs", "is taken")):
        recipe = LlmRecipe.model_validate(paths | {"output": {"name": name}})
        with pytest.raises(UsageError, match=said):
            train_adapter(recipe)
    assert not (settings.paths.outputs / "runs").exists()


@pytest.mark.parametrize("name", ["tool_base", "retail_agent"])
def test_the_recipes_load(name: str) -> None:
    recipe = load_config(LlmRecipe, recipe=CONF / "llm" / f"{name}.yaml", conf_dir=CONF).config
    assert recipe.is_adapter is (name != "tool_base")
    # The batches that the shipped models were trained with.
    assert recipe.training.conversations_a_step == 16
    assert recipe.evaluation.held_out >= 100


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.name=x", "model.base_model"),
        ("training.steps=4", "training.max_steps"),
        ("training.warmup_steps=4", "training.warmup_ratio"),
        ("training.per_device_train_batch_size=4", "training.batch_size"),
        ("training.dtype=float32", "model.torch_dtype"),
    ],
)
def test_an_earlier_name_is_refused_with_the_present_one(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"now '{new}'"):
        load_config(LlmRecipe, sets=[old], conf_dir=CONF)


def test_a_rate_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training: {learning_rate: 2e-4, warmup_ratio: 0.1, max_steps: 50}")
    training = load_config(LlmRecipe, recipe=file, conf_dir=CONF).config.training
    assert (training.learning_rate, training.warmup_steps) == (0.0002, 5)


def test_a_share_is_divided_into_runs_of_like_length() -> None:
    rows = [Encoded(np.arange(n, dtype=np.int32), np.ones(n, np.bool_)) for n in range(1, 8)]
    parts = split_evenly(rows, 3)
    assert [[len(row.ids) for row in part] for part in parts] == [[1, 2, 3], [4, 5], [6, 7]]
    # Too few rows leave some parts empty; a worker then goes along without a loss.
    assert [len(part) for part in split_evenly(rows[:2], 3)] == [1, 1, 0]
    assert not rows[0].without_loss().mask.any()


def test_a_steps_parts_do_not_depend_on_the_workers_that_are_there() -> None:
    rows = [Encoded(np.arange(n, dtype=np.int32), np.ones(n, np.bool_)) for n in range(1, 12)]
    config = TrainingConfig(workers=3, batch_size=2, gradient_accumulation_steps=2)
    parts: list[dict[tuple[int, int], list[int]]] = []
    for there in (1, 2, 3):
        divided = [divide_step(rows, config, rank, there) for rank in range(there)]
        # Sharded weights are gathered by all of them together: each has as many parts.
        assert len({len(own) for own in divided}) == 1
        assert max(len(part) for own in divided for *_, part in own) <= config.batch_size
        filled = {
            (share, number): [len(row.ids) for row in part]
            for own in divided
            for share, number, part in own
            if part
        }
        assert sorted(chain.from_iterable(filled.values())) == [*range(1, 12)]
        parts.append(filled)
    assert parts[0] == parts[1] == parts[2]
    assert parts[0][0, 1] == [1, 4]


def test_a_share_must_clear_a_bar_by_its_standard_error() -> None:
    assert is_clearly_above(48, 48, 0.9)
    # 0.9375 - 0.0349 = 0.9026; 0.9167 - 0.0399 = 0.8768.
    assert is_clearly_above(45, 48, 0.9)
    assert not is_clearly_above(44, 48, 0.9)
    assert not is_clearly_above(0, 0, 0.1)


def test_early_stopping_takes_weights_that_every_worker_holds() -> None:
    sets = ["training.early_stopping={}", "training.distributed={type: fsdp}"]
    with pytest.raises(ConfigError, match="early_stopping by exact_match takes"):
        load_config(LlmRecipe, sets=sets, conf_dir=CONF)


def test_a_mistyped_parallelism_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"training\.distributed"):
        load_config(LlmRecipe, sets=["training.distributed={type: fsdpp}"], conf_dir=CONF)


def test_a_plan_counts_parameters_tokens_and_memory_without_training(settings: Any) -> None:
    sets = ["training.max_steps=10", "training.batch_size=4", "training.workers=2"]
    sets += ["training.method=full", f"paths.state={settings.paths.state}"]
    plans = {}
    for kind in ("ddp", "fsdp"):
        chosen = [*sets, f"training.distributed={{type: {kind}}}"]
        plans[kind] = plan_training(load_config(LlmRecipe, sets=chosen, conf_dir=CONF).config)
    sharded, whole = plans["fsdp"], plans["ddp"]
    assert 2_000_000 < sharded.parameters == sharded.trained_parameters < 10_000_000
    assert sharded.tokens == pytest.approx(80 * sharded.tokens_per_conversation, rel=0.01)
    # Weights, gradients and two moments are 16 bytes a parameter, and the copy of weights and
    # moments for a checkpoint 12; two workers hold half each.
    saved = whole.memory_bytes_per_worker - sharded.memory_bytes_per_worker
    assert saved == pytest.approx(14 * sharded.parameters, rel=0.01)
    assert sharded.seconds > 0
