"""Metrics of predicted probabilities: ranking, sharpness and calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose probability lies in ``[low, high)`` (the last bin includes its end).

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: Rows.
        mean_probability: Mean prediction.
        observed_rate: Share of label 1.
    """

    low: float
    high: float
    count: int
    mean_probability: float
    observed_rate: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one set of rows.

    Attributes:
        rows: Number of rows.
        base_rate: Share of label 1.
        mean_probability: Mean prediction; the base rate if the model is calibrated.
        auc: Area under the ROC curve; 0.5 is chance.
        log_loss: Mean negative log likelihood, natural logarithm.
        base_log_loss: Log loss of always predicting the base rate of these rows.
        brier: Mean squared error of the probability.
        base_brier: Brier score of always predicting the base rate of these rows.
        calibration_error: Mean distance of probability and observed rate over the bins,
            weighted by rows.
        reliability: Bins of equal width that hold rows.
    """

    rows: int
    base_rate: float
    mean_probability: float
    auc: float
    log_loss: float
    base_log_loss: float
    brier: float
    base_brier: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]


def evaluate(target: FloatArray, probability: FloatArray, bins: int = BINS) -> Evaluation:
    """Evaluate probabilities against a target of 0.0 and 1.0.

    Args:
        target: ``[rows]``.
        probability: ``[rows]``, of label 1.
        bins: Number of equally wide bins of the reliability table.

    Raises:
        DataError: Lengths differ, there are no rows, or a value is not a probability.
    """
    _check(target, probability)
    rate = float(target.mean())
    table = reliability(target, probability, bins)
    return Evaluation(
        rows=len(target),
        base_rate=rate,
        mean_probability=float(probability.mean()),
        auc=auc(target, probability),
        log_loss=log_loss(target, probability),
        base_log_loss=log_loss(target, np.full_like(target, rate)),
        brier=brier(target, probability),
        base_brier=rate * (1.0 - rate),
        calibration_error=calibration_error(table),
        reliability=table,
    )


def auc(target: FloatArray, probability: FloatArray) -> float:
    """Share of (1, 0) pairs that the probability ranks correctly; a tie counts half.

    NaN where only one label occurs.
    """
    # The rank sum of the positives is the Mann-Whitney U statistic: no curve is needed.
    positives = float(target.sum())
    negatives = len(target) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = _average_ranks(probability)
    rank_sum = float(ranks[target == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def row_losses(target: FloatArray, probability: FloatArray) -> FloatArray:
    """Negative log likelihood of each row, finite even where a prediction is certain and wrong."""
    # The bound of scikit-learn's log_loss, so that the figures agree.
    tiny = np.finfo(np.float64).eps
    bounded = np.clip(probability, tiny, 1 - tiny)
    # log1p keeps a small probability that 1 - p would round away.
    return np.asarray(-(target * np.log(bounded) + (1 - target) * np.log1p(-bounded)))


def log_loss(target: FloatArray, probability: FloatArray) -> float:
    """Mean negative log likelihood."""
    return float(row_losses(target, probability).mean())


def brier(target: FloatArray, probability: FloatArray) -> float:
    """Mean squared error of the probability."""
    return float(((probability - target) ** 2).mean())


def reliability(
    target: FloatArray, probability: FloatArray, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Mean prediction and observed rate in equally wide bins; empty bins are left out."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Clipped, so that a probability of exactly 1 falls into the last bin.
    place = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    predicted = np.bincount(place, weights=probability, minlength=bins)
    observed = np.bincount(place, weights=target, minlength=bins)
    return tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(counts[i]),
            mean_probability=float(predicted[i] / counts[i]),
            observed_rate=float(observed[i] / counts[i]),
        )
        for i in range(bins)
        if counts[i]
    )


def calibration_error(table: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error of a reliability table."""
    rows = sum(cell.count for cell in table)
    gaps = (cell.count * abs(cell.mean_probability - cell.observed_rate) for cell in table)
    return sum(gaps) / rows


def best_threshold(target: FloatArray, probability: FloatArray) -> float:
    """The probability with the greatest true less false positive rate (Youden's J)."""
    order = np.argsort(-probability, kind="stable")
    sorted_probability, sorted_target = probability[order], target[order]
    # Equal probabilities are on the same side of any threshold: only a tie's last row counts.
    last_of_tie = np.append(np.diff(sorted_probability) != 0, True)
    # At least 1: without rows of a label its rate is 0, not NaN.
    hits = np.cumsum(sorted_target) / max(float(target.sum()), 1.0)
    misses = np.cumsum(1 - sorted_target) / max(float((1 - target).sum()), 1.0)
    gain = np.where(last_of_tie, hits - misses, -np.inf)
    return float(sorted_probability[int(np.argmax(gain))])


def _average_ranks(values: FloatArray) -> FloatArray:
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0))
    lengths = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    # Equal values share the mean of their ranks: so a tie counts half.
    ranks[order] = np.repeat(starts + (lengths + 1) / 2, lengths)
    return ranks


def _check(target: FloatArray, probability: NDArray[np.float64]) -> None:
    if len(target) != len(probability) or not len(target):
        raise DataError(f"{len(target)} labels cannot judge {len(probability)} probabilities.")
    # Before any metric: NaN would only sort last and give a plausible AUC.
    if not (np.isfinite(probability).all() and ((probability >= 0) & (probability <= 1)).all()):
        raise DataError("A probability is missing or lies outside 0 and 1.")
