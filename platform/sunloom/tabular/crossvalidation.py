"""Cross-validation inside the training rows, and the trials that run it on Ray's workers.

Only NumPy and the algorithm's own library are imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError
from sunloom.tabular.algorithms import Algorithm, Parameters, load_algorithm
from sunloom.tabular.evaluation import row_losses


@dataclass(frozen=True)
class TrainingData:
    """Training rows with their folds, as a trial gets them.

    Attributes:
        matrix: ``[rows, columns]``, NaN for missing.
        target: ``[rows]`` of 0.0 and 1.0.
        fold: ``[rows]``, number of the fold that a row is held out in.
    """

    matrix: FloatArray
    target: FloatArray
    fold: NDArray[np.int64]

    @property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1


@dataclass(frozen=True)
class FoldScore:
    """Log loss over the rows held out so far.

    Attributes:
        folds: Folds done.
        loss: Mean over the rows.
        standard_error: Of that mean.
    """

    folds: int
    loss: float
    standard_error: float


@dataclass(frozen=True)
class Trial:
    """One algorithm with one draw of its hyperparameters."""

    algorithm: str
    parameters: Mapping[str, Any]


def assign_folds(target: FloatArray, folds: int, seed: int) -> NDArray[np.int64]:
    """A fold number a row, with the same share of each label in every fold.

    Raises:
        DataError: A label has fewer rows than there are folds.
    """
    generator = np.random.default_rng(seed)
    fold = np.empty(len(target), dtype=np.int64)
    for label in (0.0, 1.0):
        rows = np.flatnonzero(target == label)
        if len(rows) < folds:
            raise DataError(f"{len(rows)} rows with label {label:.0f} do not fill {folds} folds.")
        # Dealt out in turn: the folds of a label differ by one row at most.
        fold[generator.permutation(rows)] = np.arange(len(rows)) % folds
    return fold


def held_out_scores(
    algorithm: Algorithm, data: TrainingData, parameters: Parameters
) -> Iterator[FoldScore]:
    """The score after each fold, so that a scheduler can end a hopeless trial."""
    losses: list[FloatArray] = []
    for fold, (held_out, probability) in enumerate(_predict_folds(algorithm, data, parameters)):
        losses.append(row_losses(data.target[held_out], probability))
        # Over rows, not folds: five folds are too few for a standard error.
        rows = np.concatenate(losses)
        error = float(rows.std(ddof=1) / np.sqrt(len(rows)))
        yield FoldScore(fold + 1, float(rows.mean()), error)


def held_out_probabilities(
    algorithm: Algorithm, data: TrainingData, parameters: Parameters
) -> FloatArray:
    """Each row's probability from the model that did not see its fold."""
    # Fitted again: a trial reports losses, and keeps neither models nor predictions.
    result = np.empty(len(data.target))
    for held_out, probability in _predict_folds(algorithm, data, parameters):
        result[held_out] = probability
    return result


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
        tune.report(asdict(score))


def fit_trial(trial: Trial, data: TrainingData) -> tuple[str, FloatArray]:
    """A Ray task: the classifier of all rows, as text, and the rows' held-out probabilities."""
    algorithm = load_algorithm(trial.algorithm)
    held_out = held_out_probabilities(algorithm, data, trial.parameters)
    return algorithm.fit(data.matrix, data.target, trial.parameters).dump(), held_out


def _predict_folds(
    algorithm: Algorithm, data: TrainingData, parameters: Parameters
) -> Iterator[tuple[NDArray[np.bool_], FloatArray]]:
    """Which rows each fold holds out, and their probabilities from a model of the others."""
    for fold in range(data.folds):
        held_out = data.fold == fold
        fitted = algorithm.fit(data.matrix[~held_out], data.target[~held_out], parameters)
        yield held_out, fitted.predict(data.matrix[held_out])
