"""Trials on Ray's workers; only NumPy and the algorithm's own library are imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sunloom.data.arrays import FloatArray
from sunloom.tabular.algorithms.table import load_algorithm
from sunloom.tabular.crossvalidation import TrainingData, held_out_probabilities, held_out_scores


@dataclass(frozen=True)
class Trial:
    """One algorithm with one draw of its hyperparameters."""

    algorithm: str
    parameters: Mapping[str, Any]


def run_trial(config: dict[str, Any], data: TrainingData) -> None:
    """A Ray Tune trainable: reports the log loss after every fold.

    Args:
        config: ``trial`` holds ``algorithm`` and ``parameters``.
        data: Training rows with their folds.
    """
    from ray import tune

    trial = config["trial"]
    algorithm = load_algorithm(trial["algorithm"])
    for score in held_out_scores(algorithm, data, trial["parameters"]):
        report = {"loss": score.loss, "standard_error": score.standard_error}
        tune.report(report | {"folds": score.folds})


def fit_trial(trial: Trial, data: TrainingData) -> tuple[str, FloatArray]:
    """A Ray task: the classifier of all rows, as text, and the rows' held-out probabilities."""
    algorithm = load_algorithm(trial.algorithm)
    held_out = held_out_probabilities(algorithm, data, trial.parameters)
    return algorithm.fit(data.matrix, data.target, trial.parameters).dump(), held_out
