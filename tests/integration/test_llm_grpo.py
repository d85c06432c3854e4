"""Rewards learned on a real Ray, from completions that real vLLM engines draw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from sums import LONGEST, build_guesser, rows_of_sums
from train_in_turn import Trained, train_in_turn

from sunloom.config import Settings, load_config
from sunloom.config.llm import Ddp, LlmRecipe, LoraSettings, ModelConfig, TrainingConfig
from sunloom.core.model_registry import open_registry
from sunloom.core.progress import read_progress
from sunloom.llm.encoding import encode
from sunloom.llm.feedback_formats import read_row
from sunloom.llm.loop import TrainingTask
from sunloom.llm.model_comparison import evaluate_registered
from sunloom.llm.models import load_tokenizer
from sunloom.llm.resuming import PROMPTS, ROLLOUTS
from sunloom.llm.token_store import write_tokens
from sunloom.llm.trainer import train_adapter

pytestmark = pytest.mark.integration

LORA = LoraSettings(r=8, alpha=16)
GROUP = 8


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that guesses sums, and the sums."""
    folder = tmp_path_factory.mktemp("sums")
    tokenizer = load_tokenizer(str(build_guesser(folder / "model")))
    prompts = [read_row(row, "prompt") for row in rows_of_sums(256)]
    write_tokens(encode(tokenizer, prompts, 64), folder / "tokens")
    lines = [
        json.dumps({"messages": one.messages, "columns": one.feedback and one.feedback.columns})
        for one in prompts
    ]
    (folder / PROMPTS).write_text("\n".join(lines))
    return folder


def _work(start: Path, directory: Path, *, lora: LoraSettings | None = LORA, **more: Any) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    column = more.pop("column", "answer")
    objective = {
        "type": "grpo",
        "rewards": [{"metric": {"type": "exact_match"}, "column": column}],
        "group_size": GROUP,
        "max_completion_length": LONGEST,
    } | more.pop("objective", {})
    options = {
        "max_steps": 4, "batch_size": 32, "learning_rate": 5e-3, "warmup_ratio": 0.1,
        "checkpoint_every": 2, "max_failures": 0, "distributed": Ddp(), "workers": 2,
        "objective": objective, "method": "lora" if lora else "full",
    }  # fmt: skip
    return TrainingTask(
        model=str(start / "model"),
        base="guesser@1",
        data=start / "tokens",
        directory=directory,
        pad=0,
        seed=0,
        training=TrainingConfig.model_validate(options | more),
        lora=lora,
        options=ModelConfig(torch_dtype="float32"),
        max_length=64,
    )


RUNS: dict[str, dict[str, Any]] = {
    "shuffled": {"max_steps": 32, "checkpoint_every": 32, "column": "shuffled"},
    "lagging": {"objective": {"policy_lag": 1}},
    "repeated": {"objective": {"num_iterations": 2, "beta": 0.1}},
    "unbound": {"max_steps": 2},
    "full": {"lora": None, "learning_rate": 1e-3, "max_steps": 2},
    "dora": {"lora": LORA.model_copy(update={"use_dora": True}), "max_steps": 2},
}


def share_engines() -> Callable[[str], None]:
    """One engine of each kind in a process: its start takes longer than the steps."""

    # Inside this function, so that it travels to the workers by value.
    def prepare(name: str) -> None:
        from sunloom.llm import rollouts

        kept = rollouts.__dict__.setdefault("kept_engines", {})
        begin = kept.setdefault("begin", rollouts.start_engine)
        weights = kept.setdefault("weights", rollouts._Drawer._weights)

        def start_once(settings: Any) -> Any:
            key = settings.rank
            if key not in kept:
                kept[key] = begin(replace(settings, max_sequences=72))
            return kept[key]

        def misnamed(drawer: Any) -> Any:
            found = weights(drawer)
            moved = {key.replace(".layers.", ".blocks."): v for key, v in found.tensors.items()}
            return replace(found, tensors=moved)

        rollouts.start_engine = start_once
        rollouts.end_engine = lambda engine: None
        rollouts._Drawer._weights = misnamed if name == "unbound" else weights  # type: ignore[method-assign]

    return prepare


@pytest.fixture(scope="module")
def trained(ray_local: str, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    tasks = {name: _work(start, folder / name, **more) for name, more in RUNS.items()}
    return train_in_turn(tasks, folder, prepare=share_engines())


def _figures(trained: Trained, name: str, figure: str) -> list[float]:
    return [step.figures[figure] for step in read_progress(trained.folder(name))]


def test_a_shuffled_reward_does_not_rise(trained: Trained) -> None:
    # A fifth by chance.
    shuffled = _figures(trained, "shuffled", "reward")
    assert len(shuffled) == 32
    assert np.mean(shuffled[-6:]) < 0.35


def test_engine_and_trainer_agree(trained: Trained) -> None:
    for name in ("shuffled", "repeated", "full", "dora"):
        assert max(_figures(trained, name, "mismatch/probe")) < 1e-4
        assert max(_figures(trained, name, "mismatch/mean")) < 1e-4 or name == "repeated"
        assert max(_figures(trained, name, "mismatch/capped_share")) == 0
    # Drawn by weights one step older: another policy, corrected.
    gaps = _figures(trained, "lagging", "mismatch/mean")
    assert gaps[0] < 1e-4
    assert max(gaps[1:]) > 1e-3


def test_an_untied_head_is_exported_with_the_model(trained: Trained) -> None:
    stored = load_file(trained.folder("full") / "export" / "model.safetensors")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= stored.keys()


def test_weights_that_the_engine_does_not_take_stop_the_run(trained: Trained) -> None:
    outcome = trained.outcomes["unbound"]
    assert outcome.losses == []
    assert outcome.mismatch is not None
    assert "bound to no module" in outcome.mismatch
    assert not (trained.folder("unbound") / "export").exists()


def test_rewards_are_learned_judged_and_promoted(
    ray_local: str, settings: Settings, start: Path, tmp_path: Path
) -> None:
    open_registry(settings).register("guesser", "llm", start / "model")
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, rows_of_sums(300))))
    rewards = "[{metric: {type: exact_match}}]"
    sets = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    sets += [
        f"data.train=[{{path: {file}}}]", "data.held_out_share=0.25", "data.max_length=64",
        "model.base_model=guesser", "model.torch_dtype=float32", "training.max_steps=32",
        f"training.objective={{type: grpo, rewards: {rewards}, max_completion_length: {LONGEST}}}",
        "training.batch_size=64", "training.learning_rate=0.005", "training.workers=1",
        "training.distributed={type: ddp}", "lora={r: 8, alpha: 16}", "evaluation.held_out=60",
        "evaluation.min_reward=0.6", "output.name=summer",
    ]  # fmt: skip
    recipe = load_config(LlmRecipe, sets=sets, conf_dir=Path("conf"), environ={}).config
    result = train_adapter(recipe)
    metrics = result.metrics
    # Greedy, it says nought whatever is asked.
    assert metrics["base_reward"] < 0.5
    assert (result.promoted, result.version.ref) == (True, "summer@1")
    assert metrics["adapter_reward"] > 0.65
    figure = metrics["figures"]["reward"]
    assert (figure["trained"], figure["rows"]) == (metrics["adapter_reward"], 60)
    assert metrics["held_out"] == 60
    rules = {rule["rule"]: rule["passed"] for rule in metrics["gate"]["rules"]}
    assert rules["min_reward"]
    assert rules["min_reward_gain"]
    samples = [json.loads(x) for x in Path(result.artifacts["samples"]).read_text().splitlines()]
    assert [len(sample["completions"]) for sample in samples] == [GROUP] * 32
    rewards = [
        step.figures["reward"] for step in read_progress(Path(result.artifacts["samples"]).parent)
    ]
    # Means of 192 and 384 completions: standard errors of 0.04 and 0.03.
    assert np.mean(rewards[-6:]) > np.mean(rewards[:3]) + 0.2
    judged = evaluate_registered(recipe)
    assert judged.figures["reward"]["summer@1"]["value"] == metrics["adapter_reward"]


def test_resumed_runs_have_the_bits_of_the_unbroken_ones(
    trained: Trained, start: Path, tmp_path: Path
) -> None:
    tasks = {}
    for name in ("lagging", "repeated"):
        first = Path(shutil.copytree(trained.folder(name), tmp_path / f"first-{name}"))
        shutil.rmtree(max((first / "train").glob("checkpoint_*")))
        shutil.copytree(first / ROLLOUTS, tmp_path / name / ROLLOUTS)
        tasks[name] = _work(start, tmp_path / name, resume_from=first, **RUNS[name])
    resumed = train_in_turn(tasks, tmp_path, prepare=share_engines())
    for name, outcome in resumed.outcomes.items():
        assert outcome.first_step == 3
        assert outcome.losses == trained.outcomes[name].losses[2:]
        weights, expected = (
            load_file(run.folder(name) / "export" / "adapter_model.safetensors")
            for run in (resumed, trained)
        )
        assert all(bool((weights[key] == expected[key]).all()) for key in expected)
