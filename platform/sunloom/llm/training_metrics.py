"""Metrics of a training run, as the registry keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.config.llm import TrainingConfig
from sunloom.llm.distributed import describe
from sunloom.llm.evaluation.exact_match import ExactMatch
from sunloom.llm.loop import TrainingOutcome
from sunloom.llm.models import stored_parameter_count

_FINAL_STEPS = 20


@dataclass(frozen=True)
class TrainingMetrics:
    """What training cost and reached.

    Attributes:
        parameters: Trained and exported.
        final_loss: Mean of the last 20 steps; NaN where none was run.
        steps: Optimizer steps.
        tokens: Seen by all workers.
        training_seconds: Of the training loop alone.
        tokens_per_second: Over all workers.
        workers: Ray Train workers.
        parallelism: ``ddp``, ``fsdp``, ``deepspeed_zero2`` or ``deepspeed_zero3``.
        dtype: Number format of the matrix products.
        probe: The first worker's ``DtypeProbe``.
    """

    parameters: int
    final_loss: float
    steps: int
    tokens: int
    training_seconds: float
    tokens_per_second: float
    workers: int
    parallelism: str
    dtype: str
    probe: dict[str, Any]


@dataclass(frozen=True)
class AdapterScores:
    """Exact match of an adapter beside that of its base."""

    held_out: int
    base_exact_match: float
    adapter_exact_match: float
    base_answers: float
    adapter_answers: float
    adapter_whole: float


def measure_training(
    export: Path, outcome: TrainingOutcome, config: TrainingConfig
) -> TrainingMetrics:
    """Metrics of a run that has ended.

    Args:
        export: Folder of the exported weights.
        outcome: What the workers returned.
        config: The run.
    """
    # One step's loss depends on its batch: the mean of several can be compared between runs.
    losses = outcome.losses[-_FINAL_STEPS:] or [float("nan")]
    return TrainingMetrics(
        parameters=stored_parameter_count(export),
        final_loss=sum(losses) / len(losses),
        steps=config.steps,
        tokens=outcome.tokens,
        training_seconds=round(outcome.seconds, 1),
        tokens_per_second=round(outcome.tokens / outcome.seconds, 1),
        workers=config.workers,
        parallelism=describe(config.distributed),
        dtype=outcome.dtype,
        probe=asdict(outcome.probe),
    )


def compare_with_base(before: ExactMatch, after: ExactMatch) -> AdapterScores:
    """Scores of the base and of the base with its adapter, on the same conversations."""
    return AdapterScores(
        held_out=after.held_out,
        base_exact_match=before.calls,
        adapter_exact_match=after.calls,
        base_answers=before.answers,
        adapter_answers=after.answers,
        adapter_whole=after.whole,
    )
