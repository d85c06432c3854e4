"""Start the workers of a training run on Ray Train and bring home what they return."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sunloom.core.telemetry import progress
from sunloom.errors import DivergedError, TrainingError
from sunloom.llm.history import losses
from sunloom.llm.loop import TrainingTask, run_worker

# By default a report waits up to two seconds for the controller's next look.
_HEALTH_CHECK_S = "0.2"


def launch(work: TrainingTask, title: str) -> dict[str, Any]:
    """Train and return what the first worker returned.

    Args:
        work: What to do; ``work.directory`` holds the checkpoints and the export afterwards.
        title: Stands before the progress bar.

    Raises:
        DivergedError: The loss was not finite; names the step and the last good checkpoint.
        TrainingError: The workers failed more often than allowed.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = build_trainer(work)
    try:
        with _bar(work, title):
            result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(
            f"The training workers failed: {error}",
            f"Whole checkpoints are kept in {work.directory / 'train'}; "
            "training.resume_from goes on from there.",
        ) from error
    outcome: dict[str, Any] = result.return_value
    if "diverged_at" in outcome:
        raise _diverged(work, outcome)
    return outcome


def build_trainer(work: TrainingTask) -> Any:
    """The Ray Train trainer of a run."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _HEALTH_CHECK_S)
    config = work.training
    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    if config.use_gpu:
        resources["GPU"] = 1
    return TorchTrainer(
        run_worker,
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            # The folder is unique to the run, or Ray would silently resume an older one.
            name="train",
            storage_path=str(work.directory),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=FailureConfig(max_failures=config.max_failures),
            worker_runtime_env={"env_vars": _worker_variables(config.cpus_per_worker)},
        ),
    )


def _worker_variables(threads: int) -> dict[str, str]:
    """One thread a core: workers that fight for cores spend their time waiting."""
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def _diverged(work: TrainingTask, outcome: dict[str, Any]) -> DivergedError:
    from sunloom.llm.loop import find_checkpoint

    kept = find_checkpoint(work)
    where = f"The last good checkpoint is {kept.path}." if kept else "There is no checkpoint yet."
    return DivergedError(
        f"The loss was {outcome['loss']} at step {outcome['diverged_at']}; training stopped.",
        f"{where} Lower training.learning_rate or use training.dtype=float32.",
        "training.learning_rate",
    )


@contextmanager
def _bar(work: TrainingTask, title: str) -> Iterator[None]:
    """Shows the steps that the first worker has written down."""
    done = threading.Event()
    with progress(title, work.training.steps) as bar:
        thread = threading.Thread(target=_follow, args=(work.directory, bar, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _follow(directory: Path, bar: Any, done: threading.Event) -> None:
    shown = 0
    while not done.wait(1.0):
        rows = losses(directory)
        if rows and rows[-1]["step"] > shown:
            bar.advance(rows[-1]["step"] - shown)
            shown = rows[-1]["step"]
