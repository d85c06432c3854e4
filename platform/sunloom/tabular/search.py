"""The search over algorithms and hyperparameters, on Ray Tune.

Each trial is one algorithm with one draw of its hyperparameters, run as a Ray actor; it reports
its log loss after every fold. Nothing here sees the judging rows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunloom.config.tabular import AlgorithmConfig, RangeConfig, TuningConfig
from sunloom.core.interrupts import keep_signal_handlers
from sunloom.core.telemetry import get_logger
from sunloom.errors import TrainingError
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.crossvalidation import TrainingData, Trial, run_trial


@dataclass(frozen=True)
class TrialScore:
    """A trial's score in cross-validation.

    Attributes:
        trial: Algorithm and hyperparameters.
        loss: Mean log loss over the held-out rows.
        standard_error: Of that mean.
        folds: Folds done; fewer than configured when a scheduler stopped it.
        seconds: Wall time of its folds.
    """

    trial: Trial
    loss: float
    standard_error: float
    folds: int
    seconds: float


def draw_trials(algorithms: Sequence[AlgorithmConfig], seed: int) -> list[Trial]:
    """The trials of a recipe; the same seed draws the same ones."""
    generator = np.random.default_rng(seed)
    return [
        Trial(
            config.name,
            {"seed": seed, **config.fixed}
            | {name: _draw(domain, generator) for name, domain in config.search.items()},
        )
        for config in algorithms
        for _ in range(config.trials)
    ]


def search(
    trials: Sequence[Trial], data: TrainingData, tuning: TuningConfig, folder: Path
) -> list[TrialScore]:
    """Run the trials on Ray Tune.

    Args:
        trials: Algorithms with hyperparameters.
        data: Training rows with their folds.
        tuning: Resources, scheduler and time budget.
        folder: Tune's own records while it runs; removed afterwards.

    Returns:
        Scores of the trials that finished every fold, lowest loss first.

    Raises:
        TrainingError: No trial finished.
    """
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Only the old output heeds verbose=0; the new one prints a box into the demo's step list.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Plain dictionaries: Tune logs each trial's configuration as JSON.
    space = [asdict(trial) for trial in trials]
    # with_parameters puts the rows into the object store once; a config would be copied per trial.
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, data=data), {"cpu": tuning.cpus_per_trial}
    )
    tuner = tune.Tuner(
        trainable,
        # Drawn beforehand, so Tune only enumerates: the same seed gives the same trials with any
        # scheduler.
        param_space={"trial": tune.grid_search(space)},
        tune_config=_tune_config(tuning),
        # JSON records are enough; CSV and TensorBoard ones would be written and thrown away.
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder.absolute()),
            verbose=0,
            callbacks=[JsonLoggerCallback()],
        ),
    )
    try:
        # Tune would take Ctrl-C for the end of the search, and score the trials that there are.
        with keep_signal_handlers():
            results = tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _scores(results, tuning.folds)


def choose_winner(scores: Sequence[TrialScore], tuning: TuningConfig) -> TrialScore:
    """The winner by the recipe's rule; ``scores`` are sorted by loss."""
    best = scores[0]
    if tuning.selection == "lowest_loss":
        return best
    # Within one standard error the losses cannot be told apart: the simpler model is preferred.
    close = [score for score in scores if score.loss <= best.loss + best.standard_error]
    return min(
        close, key=lambda score: (load_algorithm(score.trial.algorithm).complexity, score.loss)
    )


def best_of_each(scores: Sequence[TrialScore]) -> dict[str, TrialScore]:
    """Each algorithm's best trial; ``scores`` are sorted by loss."""
    best: dict[str, TrialScore] = {}
    for score in scores:
        best.setdefault(score.trial.algorithm, score)
    return best


def _tune_config(tuning: TuningConfig) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    scheduler = FIFOScheduler()
    if tuning.scheduler == "asha":
        grace = min(tuning.grace_folds, tuning.folds)
        # With a factor of 2 the worse half ends at each rung.
        scheduler = ASHAScheduler(
            time_attr="folds", max_t=tuning.folds, grace_period=grace, reduction_factor=2
        )
    return tune.TuneConfig(
        metric="loss",
        mode="min",
        scheduler=scheduler,
        max_concurrent_trials=tuning.max_concurrent,
        time_budget_s=tuning.time_budget_s,
        # An actor costs a second of imports: the next trial takes over the finished one's.
        reuse_actors=True,
        # Tune's own name has every hyperparameter in it and may exceed the file system's limit.
        trial_dirname_creator=lambda trial: str(trial.trial_id),
    )


def _scores(results: Any, folds: int) -> list[TrialScore]:
    log = get_logger("tabular")
    for error in results.errors:
        log.warning("a trial failed: %s", str(error).strip().splitlines()[-1])
    scores = [
        TrialScore(
            trial=Trial(**result.config["trial"]),
            loss=float(result.metrics["loss"]),
            standard_error=float(result.metrics["standard_error"]),
            folds=int(result.metrics["folds"]),
            seconds=float(result.metrics["time_total_s"]),
        )
        for result in results
        if result.metrics and "loss" in result.metrics
    ]
    # Means over fewer folds are means over other rows: they cannot be compared.
    complete = [score for score in scores if score.folds == folds and np.isfinite(score.loss)]
    if not complete:
        raise TrainingError(
            f"None of {len(results)} trials finished its {folds} folds.",
            "See the warnings above; raise tuning.time_budget_s if it ran out.",
        )
    return sorted(complete, key=lambda score: score.loss)


def _draw(domain: RangeConfig | tuple[Any, ...], generator: np.random.Generator) -> Any:
    if not isinstance(domain, RangeConfig):
        return domain[int(generator.integers(len(domain)))]
    low, high = (
        (np.log(domain.low), np.log(domain.high)) if domain.log else (domain.low, domain.high)
    )
    # Uniform in the logarithm: every order of magnitude is as likely.
    value = float(generator.uniform(low, high))
    value = float(np.exp(value)) if domain.log else value
    return round(value) if domain.integer else value
