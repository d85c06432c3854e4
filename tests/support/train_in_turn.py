"""Several trainings in one pair of workers, whose start takes longer than ten steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sunloom.config.llm import TrainingConfig
from sunloom.core.interrupts import keep_signal_handlers
from sunloom.llm.launch import build_scaling_config
from sunloom.llm.loop import TrainingOutcome, TrainingTask, run_worker


@dataclass(frozen=True)
class Trained:
    """One run of several tasks: each one's outcome, and its folder as ``launch`` leaves it."""

    tasks: dict[str, TrainingTask]
    outcomes: dict[str, TrainingOutcome]

    def folder(self, name: str) -> Path:
        return self.tasks[name].directory


def train_in_turn(
    tasks: dict[str, TrainingTask],
    folder: Path,
    workers: int | None = None,
    prepare: Callable[[str], None] = lambda name: None,
) -> Trained:
    """Train all tasks in one group of workers, whose start takes longer than ten steps.

    `prepare` is called in the workers with each name before its training.
    """
    from ray.train import CheckpointConfig, RunConfig
    from ray.train.torch import TorchConfig

    from sunloom.llm.ray_trainer import LeanTorchTrainer

    storage = folder / "train"

    # Inside this function, so that it travels to the workers by value.
    def work(config: dict[str, TrainingTask]) -> dict[str, tuple[TrainingOutcome, list[str]]]:
        done, seen = {}, set()
        for name, task in config.items():
            prepare(name)
            outcome = run_worker({"task": task})
            # Without Ray's own list of them, a file.
            checkpoints = {path.name for path in storage.glob("checkpoint_*-*")}
            done[name] = outcome, sorted(checkpoints - seen)
            seen |= checkpoints
        return done

    trainer = LeanTorchTrainer(
        work,
        train_loop_config=tasks,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=build_scaling_config(
            TrainingConfig(workers=workers or next(iter(tasks.values())).training.workers)
        ),
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
