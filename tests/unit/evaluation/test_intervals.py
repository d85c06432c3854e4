"""Intervals and differences against scipy, published numbers, exact coverage and the bootstrap."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from sunloom.evaluation.intervals import compare_paired, compare_unpaired, estimate_mean, wilson

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 9), (3, 7), (45, 50), (50, 50)])
def test_a_share_has_scipys_wilson_interval(right: int, total: int) -> None:
    found = stats.binomtest(right, total).proportion_ci(0.95, "wilson")
    assert wilson(right, total) == pytest.approx((found.low, found.high))
    values = [1] * right + [0] * (total - right)
    judged = estimate_mean(values)
    assert (judged.value, judged.method, judged.rows) == (right / total, "wilson", total)
    assert (judged.low, judged.high) == pytest.approx((found.low, found.high))


def test_a_mean_has_scipys_t_interval() -> None:
    values = RNG.gamma(2.0, size=23).tolist()
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    judged = estimate_mean(values)
    assert (judged.low, judged.high) == pytest.approx((found.low, found.high))
    # Equal weights are none.
    assert estimate_mean(values, [3.0] * 23).high == pytest.approx(found.high)
    assert estimate_mean([0.5]).low is None


def test_differences_of_means_are_scipys() -> None:
    first, second = RNG.gamma(2.0, size=30), RNG.gamma(2.5, size=30)
    both = stats.ttest_rel(second, first)
    found = compare_paired(first.tolist(), second.tolist())
    ends = both.confidence_interval(0.95)
    assert (found.low, found.high, found.p_value) == pytest.approx((*ends, both.pvalue))
    apart = stats.ttest_ind(second[:12], first, equal_var=False)
    found = compare_unpaired(first.tolist(), second[:12].tolist())
    ends = apart.confidence_interval(0.95)
    assert (found.low, found.high, found.p_value) == pytest.approx((*ends, apart.pvalue))
    assert (found.method, found.rows) == ("welch t", 12)


def test_differences_of_paired_shares() -> None:
    first, second = [1] * 20 + [0] * 10, [1] * 13 + [0] * 7 + [1] * 2 + [0] * 8
    found = compare_paired(first, second)
    assert found.value == pytest.approx(-5 / 30)
    assert found.p_value == pytest.approx(stats.binomtest(2, 9).pvalue)
    assert found.method == "mcnemar"
    # Equal models: no difference, but no proof of that either.
    same = compare_paired(first, first)
    assert (same.value, same.p_value) == (0, 1)
    assert same.low is not None
    assert same.low == pytest.approx(-1.96 * math.sqrt(2 / 32 / 32), abs=1e-3)


@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.05), (0.2, 0.1), (0.02, 0.3)])
def test_the_paired_interval_holds_the_truth_in_95_of_100_cases(lost: float, won: float) -> None:
    """Coverage over every outcome of 25 pairs, each weighed by its probability."""
    rows, covered = 25, 0.0
    for losses in range(rows + 1):
        for wins in range(rows + 1 - losses):
            chance = stats.multinomial.pmf([losses, wins, rows - losses - wins], rows,
                                           [lost, won, 1 - lost - won])  # fmt: skip
            first = [1] * losses + [0] * (rows - losses)
            second = [0] * losses + [1] * wins + [0] * (rows - losses - wins)
            found = compare_paired(first, second)
            assert found.low is not None
            assert found.high is not None
            covered += chance * (found.low <= won - lost <= found.high)
    assert covered > 0.94


def test_the_unpaired_interval_is_newcombes() -> None:
    """His first example (Statistics in Medicine 17, 1998): 56 of 70 against 48 of 80."""
    found = compare_unpaired([1] * 48 + [0] * 32, [1] * 56 + [0] * 14)
    assert found.method == "newcombe"
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_mean_over_tokens_has_the_bootstraps_interval() -> None:
    tokens = RNG.integers(1, 60, size=300)
    first = RNG.gamma(2.0, size=300) / np.sqrt(tokens)
    second = first * RNG.uniform(0.6, 1.2, size=300)
    drawn = RNG.integers(0, 300, size=(4000, 300))
    means = [np.average(v[drawn], weights=tokens[drawn], axis=1) for v in (first, second)]
    weights = tokens.astype(float).tolist()
    judged = estimate_mean(first.tolist(), weights)
    assert judged.value == pytest.approx(np.average(first, weights=tokens))
    ends = np.percentile(means[0], [2.5, 97.5])
    assert (judged.low, judged.high) == pytest.approx(tuple(ends), rel=0.03)
    found = compare_paired(first.tolist(), second.tolist(), (weights, weights))
    ends = np.percentile(means[1] - means[0], [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(ends), rel=0.06)
    # The same rows, as if they were others: what they have in common no longer cancels.
    apart = compare_unpaired(first.tolist(), second.tolist(), (weights, weights))
    widths = [b - a for f in (found, apart) for a, b in pairwise((f.low or 0, f.high or 0))]
    assert widths[1] > 2 * widths[0]
