"""Means with intervals of 95 %, and differences of two models: on the same rows, or on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z = 1.959963984540054
Method = Literal["wilson", "t", "mcnemar", "paired t", "newcombe", "welch t", "normal", "none"]
"""How an interval was computed: ``normal`` by a standard error that somebody else gives, ``none``
where there is none."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval of 95 %.

    Attributes:
        value: The mean.
        rows: Behind it.
        method: Of the interval: Wilson's of a share, Student's t of any other mean.
        low: Lower end; None where there is no interval.
        high: Upper end.
    """

    value: float
    rows: int
    method: Method = "none"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MeanDifference:
    """What a second mean is above a first, with an interval of 95 %.

    Attributes:
        value: The second less the first.
        rows: Behind it; of unlike rows, the smaller number.
        method: Of interval and p-value. On the same rows: ``mcnemar`` (exact, with the interval of
            Bonett and Price) of shares, ``paired t`` of other means. On other rows: Newcombe's
            interval of shares, Welch's t.
        low: Lower end; None where there is no interval.
        high: Upper end.
        p_value: Two-sided, of no difference; None where it has none.
    """

    value: float
    rows: int
    method: Method = "none"
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def wilson(right: float, total: int) -> tuple[float, float]:
    """Ends of Wilson's interval of 95 % for a share.

    Args:
        right: Right ones.
        total: All of them, at least one.
    """
    share, z2 = right / total, _Z * _Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    # Exactly 0 and 1 where none and all are right, which rounding would miss.
    return centre - half if right else 0.0, centre + half if right < total else 1.0


def estimate_mean(values: Sequence[float], weights: Sequence[float] = ()) -> Estimate:
    """Mean with its interval.

    Args:
        values: One a row, at least one.
        weights: What each counts for, such as its tokens; all alike when empty.
    """
    rows, mean = len(values), _mean(values, weights)
    if not weights and _is_binary(values):
        return Estimate(mean, rows, "wilson", *wilson(sum(values), rows))
    if rows < 2:
        return Estimate(mean, rows)
    half = _t_quantile(rows - 1) * _error(_residuals(values, weights))
    return Estimate(mean, rows, "t", mean - half, mean + half)


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    weights: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> MeanDifference:
    """The second's mean less the first's, row by row.

    Args:
        first: One value a row, at least one.
        second: Of the same rows.
        weights: What each value counts for, such as its tokens; all alike when empty.
    """
    rows = len(first)
    value = _mean(second, weights[1]) - _mean(first, weights[0])
    if not any(map(len, weights)) and _is_binary(first) and _is_binary(second):
        pairs = list(zip(first, second, strict=True))
        lost, won = pairs.count((1, 0)), pairs.count((0, 1))
        low, high = _bonett_price(lost, won, rows)
        p_value = _mcnemar(lost, won)
        return MeanDifference(value, rows, "mcnemar", low=low, high=high, p_value=p_value)
    if rows < 2:
        return MeanDifference(value, rows)
    error = _error(_residuals(second, weights[1]) - _residuals(first, weights[0]))
    return _by_t(value, error, rows - 1, rows, "paired t")


def compare_unpaired(
    first: Sequence[float],
    second: Sequence[float],
    weights: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> MeanDifference:
    """The second's mean less the first's, on rows that have nothing to do with each other.

    Args:
        first: One value a row, at least one.
        second: Of other rows, at least one.
        weights: What each value counts for, such as its tokens; all alike when empty.
    """
    value = _mean(second, weights[1]) - _mean(first, weights[0])
    rows = min(len(first), len(second))
    if rows < 2:
        return MeanDifference(value, rows)
    variances = [
        _error(_residuals(*part)) ** 2 for part in zip((first, second), weights, strict=True)
    ]
    counts = (len(first), len(second))
    total = sum(variances)
    freedom = (
        total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, counts, strict=True))
        if total
        else rows - 1
    )
    by_t = _by_t(value, math.sqrt(total), freedom, rows, "welch t")
    if any(map(len, weights)) or not (_is_binary(first) and _is_binary(second)):
        return by_t
    low, high = _newcombe(first, second)
    return MeanDifference(value, rows, "newcombe", low=low, high=high, p_value=by_t.p_value)


def _newcombe(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Ends of Newcombe's interval: squares and adds those of Wilson's."""
    shares = [sum(part) / len(part) for part in (second, first)]
    (low, high), (low_first, high_first) = (wilson(sum(p), len(p)) for p in (second, first))
    gap = shares[0] - shares[1]
    return (
        gap - math.hypot(shares[0] - low, high_first - shares[1]),
        gap + math.hypot(high - shares[0], shares[1] - low_first),
    )


def _bonett_price(lost: int, won: int, rows: int) -> tuple[float, float]:
    """Ends of the interval of a difference of paired shares.

    One pair more of each kind (Bonett and Price, 2012): two equal models are no proof of equality.
    """
    losses, wins = (lost + 1) / (rows + 2), (won + 1) / (rows + 2)
    gap = wins - losses
    half = _Z * math.sqrt((losses + wins - gap * gap) / (rows + 2))
    return max(-1.0, gap - half), min(1.0, gap + half)


def _mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of as many wins as losses."""
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**total)) if total else 1.0


def _by_t(value: float, error: float, freedom: float, rows: int, method: Method) -> MeanDifference:
    half, p_value = 0.0, float(value == 0)
    # NaN is no zero: it stays in both.
    if error:
        from scipy.special import stdtr

        half = _t_quantile(freedom) * error
        p_value = 2 * float(stdtr(freedom, -abs(value) / error))
    return MeanDifference(value, rows, method, low=value - half, high=value + half, p_value=p_value)


def _t_quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _is_binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    if not weights:
        return math.fsum(values) / len(values)
    return float(np.average(values, weights=weights))


def _residuals(values: Sequence[float], weights: Sequence[float]) -> NDArray[np.float64]:
    """What each row moves the mean by, times the rows: deviations, where all count alike."""
    row_values = np.asarray(values, float)
    if not weights:
        return np.asarray(row_values - row_values.mean())
    # A mean over tokens is a ratio of two sums: linearised around it (the delta method).
    shares = np.asarray(weights, float) / np.mean(weights)
    return np.asarray(shares * (row_values - np.average(row_values, weights=shares)))


def _error(residuals: ArrayLike) -> float:
    moved = np.asarray(residuals)
    return float(np.sqrt((moved**2).sum() / (len(moved) - 1) / len(moved)))
