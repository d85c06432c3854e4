"""Preferences learned on a real Ray: the same losses however the work is divided, and a gate."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_in_turn import Trained, train_in_turn

from sunloom.config import Settings, load_config
from sunloom.config.llm import (
    Architecture,
    Ddp,
    DeepSpeed,
    Distributed,
    EvaluationConfig,
    Fsdp,
    LlmRecipe,
    LoraSettings,
    ModelConfig,
    TrainingConfig,
)
from sunloom.core.model_registry import open_registry
from sunloom.core.progress import read_progress
from sunloom.errors import UsageError
from sunloom.evaluation.gate import decide
from sunloom.evaluation.report import read_report
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.distributed import TorchParallel
from sunloom.llm.encoding import encode
from sunloom.llm.feedback_formats import read_row
from sunloom.llm.feedback_rows import FeedbackRows, score_rows
from sunloom.llm.loop import Evaluations, TrainingTask, plan_batches
from sunloom.llm.model_comparison import evaluate_registered
from sunloom.llm.models import add_lora, build_llama, load_adapter, load_model
from sunloom.llm.optimization import learning_rate
from sunloom.llm.preference_judge import judge_preferences
from sunloom.llm.preference_loss import PreferenceLoss
from sunloom.llm.resuming import START_FILE
from sunloom.llm.token_store import TokenRows, write_tokens
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import train_adapter, train_base

pytestmark = pytest.mark.integration

STEPS = 8
LORA = LoraSettings(r=4, alpha=8, dropout=0.3)
CPU = torch.device("cpu")


def pairs_of(n: int, *, seed: int = 0, share_flipped: float = 0.0) -> list[dict[str, Any]]:
    """Answers that name a day are preferred to those that name a month, whatever the question."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        words = rng.sample(["river", "table", "green", "music", "stone", "paper", "light"], 3)
        good, bad = (
            f"It is {rng.choice(words)} on {day}."
            for day in (rng.choice(("Monday", "Friday")), rng.choice(("March", "June")))
        )
        if rng.random() < share_flipped:
            good, bad = bad, good
        asked = f"When is {' '.join(words)} number {rng.randint(1, 999)}?"
        rows.append({"prompt": asked, "chosen": good, "rejected": bad})
    return rows


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, an adapter on it, and encoded preferences."""
    folder = tmp_path_factory.mktemp("preferences")
    texts = [read_row(row, "preference") for row in pairs_of(200)]
    samples = [*GenericConversations().train(40, 0), *texts]
    tokenizer = build_tokenizer(conversation_texts(samples), 500, 512)
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    tokenizer.save_pretrained(str(folder / "model"))
    model = build_llama(shape, tokenizer, 0)
    model.save_pretrained(str(folder / "model"))
    adapted = add_lora(model, LORA, 3, "tiny@1")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(str(folder / "adapter"))
    rows = pairs_of(33)
    labelled = [
        {"prompt": row["prompt"], "completion": row[kind], "label": kind == "chosen"}
        for row in rows
        for kind in ("chosen", "rejected")
    ]
    # Of an odd number of batches, so that the last one is one worker's alone.
    for name, own, format in (
        ("pairs", rows, "preference"),
        ("labelled", labelled, "unpaired"),
        ("held_out", pairs_of(20, seed=5), "preference"),
    ):
        write_tokens(encode(tokenizer, [read_row(row, format) for row in own], 64), folder / name)
    return folder


def _work(
    start: Path, directory: Path, distributed: Distributed, objective: str, **more: Any
) -> TrainingTask:
    directory.mkdir(parents=True, exist_ok=True)
    is_adapter = more.pop("is_adapter", False)
    options = {
        "max_steps": STEPS, "batch_size": 3, "learning_rate": 3e-3, "warmup_ratio": 0.25,
        "checkpoint_every": 4, "max_failures": 0, "distributed": distributed,
        "objective": {"type": objective} | ({} if objective == "reward" else {"beta": 0.3}),
    }  # fmt: skip
    # Of its own: what the start gives each row is written beside the tokens.
    for name in ("pairs", "labelled", "held_out"):
        shutil.copytree(start / name, directory / name)
    return TrainingTask(
        model=str(start / "model"),
        base="tiny@1",
        data=directory / ("labelled" if objective == "kto" else "pairs"),
        directory=directory,
        pad=0,
        seed=0,
        training=TrainingConfig.model_validate(options | more),
        lora=LORA if is_adapter else None,
        evaluations=Evaluations(
            every=4, rows=directory / "held_out", stopping=None, conversations=(),
            gate=EvaluationConfig(),
        ) if objective == "dpo" else None,
        options=ModelConfig(torch_dtype="float32"),
        adapter=start / "adapter" if is_adapter and objective != "reward" else None,
    )  # fmt: skip


ACCUMULATED = {"batch_size": 1, "gradient_accumulation_steps": 3}
RUNS: dict[str, tuple[Distributed, str, dict[str, Any]]] = {
    "dpo": (Ddp(), "dpo", {}),
    "dpo_fsdp": (Fsdp(), "dpo", {}),
    "dpo_zero3": (DeepSpeed(zero_stage=3), "dpo", {}),
    "dpo_accumulated": (Ddp(), "dpo", ACCUMULATED),
    "ipo": (Fsdp(), "ipo", {}),
    "kto": (Ddp(), "kto", {}),
    "kto_fsdp_accumulated": (Fsdp(), "kto", ACCUMULATED),
    "orpo": (Ddp(), "orpo", {}),
    "orpo_zero2": (DeepSpeed(zero_stage=2), "orpo", {}),
    "adapter": (Ddp(), "dpo", {"is_adapter": True}),
    "reward": (Ddp(), "reward", {}),
    "reward_fsdp": (Fsdp(), "reward", {}),
    "reward_adapter": (Fsdp(), "reward", {"is_adapter": True}),
}


@pytest.fixture(scope="module")
def trained(ray_local: str, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    tasks = {
        name: _work(start, folder / name, kind, objective, **more)
        for name, (kind, objective, more) in RUNS.items()
    }
    return train_in_turn(tasks, folder)


def _train_alone(task: TrainingTask) -> list[float]:
    """The losses of one process that sees the whole batch of every step at once."""
    is_reward = task.training.objective.type == "reward"
    model = load_model(task.model, head_seed=task.seed if is_reward else None)
    module = PreferenceLoss(model, torch.float32, task.training.objective)
    rows = TokenRows(task.data)
    needs_kl = module.kind.needs_kl
    pad, lengths = task.pad, rows.lengths.tolist()
    compared: FeedbackRows = FeedbackRows(rows, longest_other=max(lengths) if needs_kl else None)
    parallel = TorchParallel(module, task.training)
    if module.kind.needs_reference:
        compared = compared.with_start(score_rows(parallel.judge, compared, lengths, pad, CPU))
    losses = []
    for step, batch in enumerate(plan_batches(lengths, task.training, task.seed)):
        chosen = [compared[i] for i in batch]
        inputs = list(module.collate(chosen, pad))
        if needs_kl:
            now = score_rows(parallel.judge, chosen, [0] * len(chosen), pad, CPU)
            before = [row.start[1] for row in chosen]
            inputs.append((torch.from_numpy(now[:, 1]) - torch.tensor(before)).mean().clamp(min=0))
        counts = module.counts(chosen)
        scales = [1 / count for count in counts]
        sums = parallel.add_gradient(*inputs, scales=scales, is_last=True).tolist()
        losses.append(sum(s / c for s, c in zip(sums, counts, strict=False)))
        parallel.step(learning_rate(step, task.training))
    return losses


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "orpo", "reward"])
def test_two_workers_have_the_losses_of_one_process(name: str, trained: Trained) -> None:
    losses = trained.outcomes[name].losses
    assert losses == pytest.approx(_train_alone(trained.tasks[name]), abs=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("dpo_fsdp", "dpo"),
        ("dpo_zero3", "dpo"),
        ("dpo_accumulated", "dpo"),
        ("kto_fsdp_accumulated", "kto"),
        ("orpo_zero2", "orpo"),
        ("reward_fsdp", "reward"),
    ],
)
def test_the_losses_are_the_same_however_the_work_is_divided(
    name: str, other: str, trained: Trained
) -> None:
    assert trained.outcomes[name].losses == pytest.approx(trained.outcomes[other].losses, abs=1e-4)


def test_the_progress_has_rewards_and_the_held_out_accuracy(trained: Trained) -> None:
    task = trained.tasks["dpo"]
    steps = read_progress(task.directory)
    assert steps[0].figures["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert steps[-1].figures["rewards/margins"] > 0.1
    assert [step.eval_loss is not None for step in steps] == [n % 4 == 0 for n in range(1, 9)]
    # What the last step's figures say is what judging the export says.
    held_out = list(TokenRows(task.directory / "held_out"))
    before = judge_preferences(load_model(task.model), held_out, task.training.objective, 0)
    model = load_model(str(task.directory / "export"))
    after = judge_preferences(model, held_out, task.training.objective, 0, before.scores)
    assert before.accuracy == 0.5
    figures = steps[-1].figures
    assert after.loss == pytest.approx(steps[-1].eval_loss, abs=1e-5)
    assert after.accuracy == pytest.approx(figures["eval_rewards/accuracies"], abs=1e-6)
    assert after.margin == pytest.approx(figures["eval_rewards/margins"], abs=1e-4)


def test_the_reference_of_an_adapter_is_the_adapter_that_it_starts_from(
    start: Path, trained: Trained
) -> None:
    import numpy as np

    task = trained.tasks["adapter"]
    rows = list(TokenRows(task.data))
    stored = np.load(task.data / START_FILE)
    adapted = load_adapter(load_model(task.model), start / "adapter")
    objective = task.training.objective
    expected = judge_preferences(adapted, rows, objective, 0).scores
    assert np.abs(stored - expected).max() < 1e-4
    base = judge_preferences(load_model(task.model), rows, objective, 0).scores
    assert np.abs(stored - base).max() > 0.1
    # Dropout is not part of the reference, and the first step begins at the start.
    assert trained.outcomes["adapter"].losses[0] == pytest.approx(np.log(2), abs=0.15)
    tuned = load_adapter(load_model(task.model), task.directory / "export")
    after = judge_preferences(tuned, rows, objective, 0, expected)
    assert after.margin is not None
    assert after.margin > 0.05
    assert tuned.peft_config["default"].r == 4


@pytest.mark.parametrize("name", ["reward_fsdp", "reward_adapter"])
def test_a_reward_model_is_exported_with_its_head(name: str, trained: Trained) -> None:
    task, outcome = trained.tasks[name], trained.outcomes[name]
    export = task.directory / "export"
    if name == "reward_adapter":
        model = load_adapter(load_model(task.model, head_seed=9), export)
    else:
        model = load_model(str(export), head_seed=9)
    rows = list(TokenRows(task.data))
    judged = judge_preferences(model.eval(), rows, task.training.objective, 0)
    assert judged.loss < outcome.losses[0]
    assert judged.accuracy is not None
    assert judged.accuracy > 0.6


def test_a_resumed_run_keeps_its_reference_and_its_bits(
    trained: Trained, start: Path, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(trained.folder("adapter"), tmp_path / "first"))
    shutil.rmtree(max((first / "train").glob("checkpoint_*")))
    own = {"is_adapter": True, "resume_from": first}
    resumed = train_in_turn(
        {"adapter": _work(start, tmp_path / "adapter", Ddp(), "dpo", **own)}, tmp_path
    )
    outcome = resumed.outcomes["adapter"]
    assert outcome.first_step == 5
    assert outcome.losses == trained.outcomes["adapter"].losses[4:]
    weights, expected = (
        load_file(run.folder("adapter") / "export" / "adapter_model.safetensors")
        for run in (resumed, trained)
    )
    assert all(bool((weights[key] == expected[key]).all()) for key in expected)


def _recipe(settings: Settings, file: Path, *sets: str) -> LlmRecipe:
    chosen = [f"paths.{key}={value}" for key, value in settings.paths.model_dump().items()]
    chosen += [
        f"data.train=[{{path: {file}}}]", "data.held_out_share=0.25", "model.base_model=tiny",
        "model.torch_dtype=float32", "training.objective={type: dpo, beta: 0.3}",
        "training.max_steps=30", "training.batch_size=16", "training.learning_rate=0.005",
        "training.workers=1", "training.distributed={type: ddp}", "lora={r: 8, alpha: 16}",
        "evaluation.held_out=80", "evaluation.min_preference_accuracy=0.8", *sets,
    ]  # fmt: skip
    return load_config(LlmRecipe, sets=chosen, conf_dir=Path("conf"), environ={}).config


def test_preferences_are_learned_judged_and_promoted_on_top_of_each_other(
    ray_local: str, settings: Settings, start: Path, tmp_path: Path
) -> None:
    registry = open_registry(settings)
    registry.register("tiny", "llm", start / "model")
    files = {}
    for name, flipped in (("real", 0.0), ("shuffled", 0.5)):
        files[name] = tmp_path / f"{name}.jsonl"
        rows = pairs_of(320, seed=7, share_flipped=flipped)
        files[name].write_text("\n".join([*map(json.dumps, rows), '{"prompt": "x", "chosen": 1}']))
    first = train_adapter(_recipe(settings, files["real"], "output.name=days"))
    assert first.metrics["base_preference_accuracy"] == 0.5
    assert first.metrics["adapter_preference_accuracy"] > 0.9
    assert first.metrics["adapter_loss"] < first.metrics["base_loss"]
    assert (first.promoted, first.version.ref) == (True, "days@1")
    report = read_report(Path(first.artifacts["report"]))
    before, after = report.figure("preferences.accuracy").scores
    assert len(after.rows.values) == first.metrics["held_out"]
    assert after.estimate is not None
    assert after.estimate.value == first.metrics["adapter_preference_accuracy"]
    assert (before.rows.values[0], before.rows.keys) == (0.5, after.rows.keys)
    assert after.difference is not None
    assert after.difference.low is not None
    assert after.difference.low > 0.3
    assert (
        [rule.rule for rule in report.gate.rules] == ["min_preference_accuracy", "max_loss_ratio"]
        if report.gate
        else False
    )
    quarantine = Path(first.artifacts["report"]).with_name("quarantine.jsonl")
    assert json.loads(quarantine.read_text())["position"] == 321
    recipe = _recipe(settings, files["real"], "output.name=days")
    assert train_adapter(recipe).reused
    judged = evaluate_registered(recipe)
    assert judged.preference_accuracy == first.metrics["adapter_preference_accuracy"]

    # On top of it, with what it has learned undone half of the time: the gate holds it back.
    on_top = ("model.adapter=days@production", "output.name=days-on")
    second = train_adapter(_recipe(settings, files["shuffled"], *on_top))
    assert second.version.lineage["start"] == "days@1"
    assert second.metrics["base_preference_accuracy"] == 0.5
    assert second.metrics["adapter_preference_accuracy"] < 0.65
    assert not second.promoted
    assert "adapter_preference_accuracy" in second.failures[0]
    with pytest.raises(UsageError, match=r"days@1 has lora\.r 8"):
        train_adapter(_recipe(settings, files["real"], *on_top, "lora.r=4"))

    # A reward model is another kind, under a name of its own.
    scorer = ("training.objective={type: reward}", "output.name=days-reward")
    recipe = _recipe(settings, files["real"], *scorer)
    third = train_adapter(recipe)
    assert (third.version.kind, third.version.lineage["base"]) == ("reward", "tiny@1")
    assert third.metrics["adapter_preference_accuracy"] > 0.9
    assert third.promoted
    judged = evaluate_registered(recipe)
    assert judged.preference_accuracy == third.metrics["adapter_preference_accuracy"]
    with pytest.raises(UsageError, match="'days' is an adapter of a language model, not a reward"):
        train_adapter(_recipe(settings, files["real"], scorer[0], "output.name=days"))

    # Every parameter of the model is trained, and judged as an adapter is.
    full = ("training.method=full", "training.learning_rate=0.002", "output.name=days-tuned")
    recipe = _recipe(settings, files["real"], *full)
    fourth = train_base(recipe)
    assert (fourth.version.kind, fourth.version.lineage["base"]) == ("llm", "tiny@1")
    assert fourth.metrics["base_preference_accuracy"] == 0.5
    assert fourth.metrics["adapter_preference_accuracy"] > 0.9
    assert fourth.promoted
    judged = evaluate_registered(recipe)
    assert judged.preference_accuracy == fourth.metrics["adapter_preference_accuracy"]
    higher = fourth.version.metrics | {"adapter_preference_accuracy": 0.7}
    assert "adapter_preference_accuracy 0.700" in decide(higher, recipe.evaluation, "p").failures[0]
