"""Metrics of predicted probabilities: ranking, sharpness and calibration, with its plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


def evaluate(target: FloatArray, probability: FloatArray) -> Evaluation:
    """Evaluate probabilities against a target of 0.0 and 1.0.

    Args:
        target: ``[rows]``.
        probability: ``[rows]``, of label 1.

    Raises:
        DataError: Lengths differ, there are no rows, or a value is not a probability.
    """
    if len(target) != len(probability) or not len(target):
        raise DataError(f"{len(target)} labels cannot judge {len(probability)} probabilities.")
    # Before any metric: NaN would only sort last and give a plausible AUC.
    if not (np.isfinite(probability).all() and ((probability >= 0) & (probability <= 1)).all()):
        raise DataError("A probability is missing or lies outside 0 and 1.")
    rate = float(target.mean())
    table = reliability(target, probability)
    gaps = (cell.count * abs(cell.mean_probability - cell.observed_rate) for cell in table)
    return Evaluation(
        rows=len(target),
        base_rate=rate,
        mean_probability=float(probability.mean()),
        auc=auc(target, probability),
        log_loss=log_loss(target, probability),
        base_log_loss=log_loss(target, np.full_like(target, rate)),
        brier=float(((probability - target) ** 2).mean()),
        base_brier=rate * (1.0 - rate),
        calibration_error=sum(gaps) / len(target),
        reliability=table,
    )


def auc(target: FloatArray, probability: FloatArray) -> float:
    """Share of (1, 0) pairs that the probability ranks correctly; a tie counts half.

    NaN where only one label occurs.
    """
    import polars as pl

    positives = float(target.sum())
    negatives = len(target) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    # The rank sum of the positives is the Mann-Whitney U statistic: no curve is needed. Equal
    # values share the mean of their ranks: so a tie counts half.
    ranks = pl.Series(probability).rank("average").to_numpy()
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


def plot_calibration(path: Path, algorithms: Mapping[str, Mapping[str, Any]], winner: str) -> Path:
    """Predicted against observed rate, one line an algorithm, above the rows of each bin, as PNG.

    Args:
        path: PNG to write.
        algorithms: Metrics by algorithm, as the registry keeps them.
        winner: The algorithm drawn in front.

    Returns:
        ``path``.
    """
    # The object interface with Agg has no global state, so it also works in a server's thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    upper.axhline(algorithms[winner]["base_rate"], color="grey", linewidth=0.8, label="base rate")
    for name, figures in algorithms.items():
        front = name == winner
        upper.plot(
            [cell["mean_probability"] for cell in figures["reliability"]],
            [cell["observed_rate"] for cell in figures["reliability"]],
            marker="o",
            label=f"{name}: AUC {figures['auc']:.3f}, log loss {figures['log_loss']:.3f}",
            linewidth=2.2 if front else 1.0,
            zorder=2 + front,
        )
    upper.set(ylabel="observed rate", title="Calibration at the later cut-off", ylim=(0, 1))
    upper.legend(loc="upper left", fontsize=8)
    cells = algorithms[winner]["reliability"]
    lower.bar(
        [cell["low"] for cell in cells],
        [cell["count"] for cell in cells],
        [cell["high"] - cell["low"] for cell in cells],
        align="edge",
        alpha=0.6,
    )
    # On a log axis: bins of few rows would not be seen beside full ones.
    lower.set(xlabel="predicted probability", ylabel="rows", xlim=(0, 1), yscale="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
