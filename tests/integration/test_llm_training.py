"""Training on a real Ray: the same losses whatever the parallelism, resume, divergence, export."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from child_processes import children_titled

from sunloom.config.llm import (
    Architecture,
    Ddp,
    DeepSpeed,
    Distributed,
    Fsdp,
    LoraSettings,
    ModelConfig,
    TrainingConfig,
)
from sunloom.core.interrupts import Interrupted, interrupt_on_signals, keep_signal_handlers
from sunloom.core.progress import read_progress
from sunloom.errors import DivergedError
from sunloom.llm.checkpoints import newest_whole
from sunloom.llm.conversations import GenericConversations
from sunloom.llm.encoding import encode, save_encoded
from sunloom.llm.launch import build_scaling_config, launch
from sunloom.llm.loop import TrainingOutcome, TrainingTask, run_worker
from sunloom.llm.models import build_llama, load_adapter, load_model
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom.llm.trainer import plot_losses

pytestmark = pytest.mark.integration

STEPS = 10
# The same step from half the conversations at once.
ACCUMULATED = {"batch_size": 1, "gradient_accumulation_steps": 2}
KINDS: dict[str, Distributed] = {
    "ddp": Ddp(),
    "fsdp": Fsdp(),
    "zero2": DeepSpeed(zero_stage=2),
    "zero3": DeepSpeed(zero_stage=3),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, its tokenizer and encoded conversations."""
    folder = tmp_path_factory.mktemp("llm")
    conversations = GenericConversations().train(40, 0)
    tokenizer = build_tokenizer(conversation_texts(conversations), 500, 512)
    shape = Architecture(hidden_size=48, layers=2, heads=3, intermediate_size=64, max_length=512)
    tokenizer.save_pretrained(str(folder / "model"))
    build_llama(shape, tokenizer, 0).save_pretrained(str(folder / "model"))
    save_encoded(encode(tokenizer, conversations, 256), folder / "rows.npz")
    return folder


def _work(
    start: Path,
    directory: Path,
    distributed: Distributed,
    lora: LoraSettings | None = None,
    **more: Any,
) -> TrainingTask:
    directory.mkdir(parents=True, exist_ok=True)
    options = {
        "max_steps": STEPS,
        "batch_size": 2,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.2,
        "checkpoint_every": 5,
        "max_failures": 0,
        "distributed": distributed,
    }
    training = TrainingConfig.model_validate(options | more)
    model = str(start / "model")
    return TrainingTask(
        model=model,
        base="tiny@1",
        data=start / "rows.npz",
        directory=directory,
        pad=0,
        seed=0,
        training=training,
        lora=lora,
        options=ModelConfig(torch_dtype="float32"),
    )


@dataclass(frozen=True)
class Trained:
    """One run of several tasks: each one's outcome, and its folder as ``launch`` leaves it."""

    tasks: dict[str, TrainingTask]
    outcomes: dict[str, TrainingOutcome]

    def folder(self, name: str) -> Path:
        return self.tasks[name].directory


def _train_in_turn(tasks: dict[str, TrainingTask], folder: Path) -> Trained:
    """Train all tasks in one pair of workers, whose start takes longer than ten steps."""
    from ray.train import CheckpointConfig, RunConfig
    from ray.train.torch import TorchConfig

    from sunloom.llm.ray_trainer import LeanTorchTrainer

    storage = folder / "train"

    # Inside this function, so that it travels to the workers by value.
    def work(config: dict[str, TrainingTask]) -> dict[str, tuple[TrainingOutcome, list[str]]]:
        done, seen = {}, set()
        for name, task in config.items():
            outcome = run_worker({"task": task})
            checkpoints = {path.name for path in storage.glob("checkpoint_*")}
            done[name] = outcome, sorted(checkpoints - seen)
            seen |= checkpoints
        return done

    trainer = LeanTorchTrainer(
        work,
        train_loop_config=tasks,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=build_scaling_config(next(iter(tasks.values())).training),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(folder),
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        ),
    )
    with keep_signal_handlers():
        results = trainer.fit().return_value
    for name, (_, checkpoints) in results.items():
        own = tasks[name].directory / "train"
        own.mkdir()
        for checkpoint in checkpoints:
            (storage / checkpoint).rename(own / checkpoint)
    return Trained(tasks, {name: outcome for name, (outcome, _) in results.items()})


@pytest.fixture(scope="module")
def trained(ray_local: str, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The unbroken run of each parallelism, and that of an adapter."""
    folder = tmp_path_factory.mktemp("trained")
    tasks = {kind: _work(start, folder / kind, KINDS[kind]) for kind in KINDS}
    for kind in ("ddp", "fsdp", "zero2"):
        name = f"{kind}_accumulated"
        tasks[name] = _work(start, folder / name, KINDS[kind], **ACCUMULATED)
    lora = LoraSettings(r=4, alpha=8)
    return _train_in_turn(
        tasks | {"adapter": _work(start, folder / "adapter", Fsdp(), lora=lora)}, folder
    )


@pytest.fixture(scope="module")
def resumed(trained: Trained, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Runs that go on, in new workers, from a run whose newest checkpoint is truncated."""
    folder = tmp_path_factory.mktemp("resumed")
    tasks = {}
    for kind in ("fsdp", "zero3"):
        first = Path(shutil.copytree(trained.folder(kind), folder / f"{kind}-first"))
        newest = newest_whole(first / "train")
        assert newest is not None
        assert (newest.step, newest.world_size) == (10, 2)
        victim = max(newest.path.rglob("*"), key=lambda path: path.stat().st_size)
        victim.write_bytes(victim.read_bytes()[:-7])
        before = newest_whole(first / "train")
        assert before is not None
        assert before.step == 5
        tasks[kind] = _work(start, folder / kind, KINDS[kind], resume_from=first)
    return _train_in_turn(tasks, folder)


@pytest.mark.parametrize(
    "kind", ["fsdp", "zero2", "zero3", "ddp_accumulated", "fsdp_accumulated", "zero2_accumulated"]
)
def test_ten_losses_are_the_same_for_each_parallelism(kind: str, trained: Trained) -> None:
    outcome, reference = trained.outcomes[kind], trained.outcomes["ddp"]
    assert len(outcome.losses) == STEPS
    assert outcome.losses == pytest.approx(reference.losses, abs=1e-4)
    assert outcome.losses[-1] < outcome.losses[0]
    weights, expected = (
        load_model(str(trained.folder(one) / "export")).state_dict() for one in (kind, "ddp")
    )
    assert weights.keys() == expected.keys()
    assert all((weights[key] - expected[key]).abs().max() < 1e-3 for key in expected)


@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_a_truncated_checkpoint_is_passed_over_and_the_losses_go_on(
    kind: str, trained: Trained, resumed: Trained
) -> None:
    outcome = resumed.outcomes[kind]
    assert outcome.first_step == 6
    assert outcome.losses == pytest.approx(trained.outcomes["ddp"].losses[5:], abs=1e-4)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    ray_local: str, start: Path, tmp_path: Path
) -> None:
    work = _work(start, tmp_path, Fsdp(), learning_rate=1e25, warmup_ratio=0, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"at step \d+; training stopped") as caught:
        launch(work, "diverges")
    kept = newest_whole(tmp_path / "train")
    assert kept is not None
    assert str(kept.path) in caught.value.hint
    assert not (tmp_path / "export").exists()


def test_an_adapter_is_exported_as_a_peft_folder(trained: Trained) -> None:
    import torch

    losses, export = trained.outcomes["adapter"].losses, trained.folder("adapter") / "export"
    assert losses[-1] < losses[0]
    names = {path.name for path in export.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    base = load_model(trained.tasks["adapter"].model)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    adapted = load_adapter(base, export)
    assert adapted.peft_config["default"].base_model_name_or_path == "tiny@1"
    assert (adapted(ids).logits - before).abs().max() > 1e-3


def test_the_loss_history_is_readable_and_drawn(trained: Trained) -> None:
    directory, reference = trained.folder("ddp"), trained.outcomes["ddp"]
    rows = read_progress(directory)
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert [row.loss for row in rows] == pytest.approx(reference.losses, abs=1e-5)
    assert all(math.isfinite(row.tokens_per_second) for row in rows)
    picture = plot_losses(directory, "ddp")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_an_interrupted_training_has_no_outcome(
    ray_local: str, start: Path, tmp_path: Path
) -> None:
    """Ray Train's own handler would leave the process with status 0."""
    handler = signal.getsignal(signal.SIGINT)

    def press_ctrl_c() -> None:
        deadline = time.monotonic() + 120
        while not read_progress(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_ctrl_c)
    with pytest.raises(Interrupted), interrupt_on_signals():
        thread.start()
        launch(_work(start, tmp_path, Ddp(), max_steps=100_000, workers=1), "endless")
    thread.join()
    assert not (tmp_path / "export").exists()
    assert signal.getsignal(signal.SIGINT) is handler
    deadline = time.monotonic() + 30
    while children_titled("RayTrainWorker") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children_titled("RayTrainWorker") == []
