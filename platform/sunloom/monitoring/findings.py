"""Findings: one window against its reference, drift and quality of each feature.

Distances between stored histograms, and their significance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sunloom.config.monitoring import WatchConfig
from sunloom.data.arrays import FloatArray, IntArray
from sunloom.data.quality.drift import FeatureDrift
from sunloom.data.quality.drift_statistics import EMPTY_BIN_SHARE, SHARE_DISTANCES, relative_entropy
from sunloom.monitoring.histograms import BINNING, DEFAULT, MISSING, OUTSIDE, ROWS, Bins, Histogram

_LEAST_EXPECTED = 10.0

Rule = Literal["feature_drift", "feature_null_rate", "feature_default_rate", "feature_range"]


@dataclass(frozen=True)
class Finding:
    """One rule's result for one feature in one window.

    Attributes:
        rule: Name of the alert.
        feature: The feature.
        value: The window's value; None where nothing can be compared.
        threshold: The bound.
        flagged: Whether the value is past the bound, and significantly so, or there is none to
            judge by.
        calm: Whether it is well below the bound.
        message: One sentence.
    """

    rule: Rule
    feature: str
    value: float | None
    threshold: float
    flagged: bool
    calm: bool
    message: str


@dataclass(frozen=True)
class FeatureQuality:
    """Rates and range of one feature in one window, and the reference's rates."""

    feature: str
    rows: int
    null_rate: float
    default_rate: float
    outside_rate: float
    reference_null_rate: float
    reference_default_rate: float
    reference_outside_rate: float
    minimum: float | None
    maximum: float | None


class Rate(NamedTuple):
    """A share of rows, as the hits among them."""

    hits: int
    rows: int

    @property
    def share(self) -> float:
        """Hits by rows; 0 without rows."""
        return self.hits / self.rows if self.rows else 0.0


class _Rates(NamedTuple):
    """Shares of one feature's poor values."""

    null: Rate
    default: Rate
    outside: Rate


def drift_findings(
    reference: Histogram, current: Histogram, bins: Bins, config: WatchConfig
) -> list[Finding]:
    """Each feature's distance from its reference.

    A feature drifted where the distance reaches the threshold and is significant: its probability
    without a change, times the number of features, is below ``false_alarms``. So neither few rows
    nor many features raise an alert by themselves. A feature without a value in the window or in
    the reference cannot be compared, and is flagged unless its few values are missing by chance.
    """
    # Bonferroni's correction: false_alarms holds for all features of a window together.
    bound = config.false_alarms / max(len(bins.features), 1)
    near = config.alerts.clear_share * config.threshold
    findings = []
    for number, feature in enumerate(bins.features):
        before = reference.feature_counts(bins, number)
        after = current.feature_counts(bins, number)
        if not before.sum() or not after.sum():
            nulls = [_rates(histogram, number).null for histogram in (reference, current)]
            is_chance = before.sum() + after.sum() > 0 and rates_p_value(*nulls) > bound
            where = "these rows" if before.sum() else "the reference"
            findings.append(_without_value(feature.name, where, config, flagged=not is_chance))
            continue
        value = distance(config.method, before, after)
        # The test is dear, and most features of most windows are nowhere near the bound.
        is_significant = value >= near and counts_p_value(before, after) <= bound
        drifted = is_significant and value >= config.threshold
        word = "drifted" if drifted else "is steady"
        findings.append(
            Finding(
                rule="feature_drift",
                feature=feature.name,
                value=value,
                threshold=config.threshold,
                flagged=drifted,
                calm=not is_significant,
                message=f"{feature.name} of {config.name} {word}: {config.method} {value:.3f}",
            )
        )
    # The recipe's features that had no value when the bins were made.
    findings += [
        _without_value(name, "the reference", config, flagged=True)
        for name in config.features
        if name not in bins.names
    ]
    return findings


def _without_value(feature: str, where: str, config: WatchConfig, *, flagged: bool) -> Finding:
    return Finding(
        rule="feature_drift",
        feature=feature,
        value=None,
        threshold=config.threshold,
        flagged=flagged,
        calm=False,
        message=f"{feature} of {config.name} cannot be compared: no value in {where}",
    )


def drift_features(findings: Sequence[Finding], config: WatchConfig) -> tuple[FeatureDrift, ...]:
    """The findings about drift in the form of a drift report."""
    return tuple(
        FeatureDrift(
            feature=finding.feature,
            method=config.method,
            value=finding.value,
            threshold=finding.threshold,
            drifted=finding.flagged,
            binning=BINNING if finding.value is not None else None,
            reason=finding.message if finding.value is None else "",
        )
        for finding in findings
        if finding.rule == "feature_drift"
    )


def feature_quality(reference: Histogram, current: Histogram, bins: Bins) -> list[FeatureQuality]:
    """Each feature's rates and range, beside the reference's rates."""
    features = []
    for number, feature in enumerate(bins.features):
        now, then = _rates(current, number), _rates(reference, number)
        low, high = (float(value) for value in current.extremes[number])
        features.append(
            FeatureQuality(
                feature=feature.name,
                rows=int(current.tallies[number, ROWS]),
                null_rate=now.null.share,
                default_rate=now.default.share,
                outside_rate=now.outside.share,
                reference_null_rate=then.null.share,
                reference_default_rate=then.default.share,
                reference_outside_rate=then.outside.share,
                # NaN, where the window has no number, is unequal to itself; JSON has no NaN.
                minimum=low if low == low else None,
                maximum=high if high == high else None,
            )
        )
    return features


def quality_findings(
    reference: Histogram, current: Histogram, bins: Bins, config: WatchConfig
) -> list[Finding]:
    """Rates that rose past their bounds, and values outside the reference's range."""
    # Three rules a feature share the probability of a false alarm.
    significance = config.false_alarms / max(3 * len(bins.features), 1)
    rules: tuple[tuple[Rule, float, str], ...] = (
        ("feature_null_rate", config.quality.null_rate_rise, "is missing"),
        ("feature_default_rate", config.quality.default_rate_rise, "is the default"),
        ("feature_range", config.quality.outside_rate, "is outside its range"),
    )
    findings = []
    for number, feature in enumerate(bins.features):
        rates = zip(rules, _rates(current, number), _rates(reference, number), strict=True)
        for (rule, bound, words), rate, before in rates:
            rise = rate.share - before.share
            findings.append(
                Finding(
                    rule=rule,
                    feature=feature.name,
                    value=rise,
                    threshold=bound,
                    flagged=rise >= bound and rates_p_value(before, rate) <= significance,
                    calm=rise < config.alerts.clear_share * bound,
                    message=f"{feature.name} of {config.name} {words} in {rate.share:.1%} of the "
                    f"rows, {before.share:.1%} in the reference",
                )
            )
    return findings


def _rates(histogram: Histogram, number: int) -> _Rates:
    tallies = histogram.tallies[number]
    rows, missing = int(tallies[ROWS]), int(tallies[MISSING])
    return _Rates(
        null=Rate(missing, rows),
        default=Rate(int(tallies[DEFAULT]), rows),
        # A missing value has no range to be outside of.
        outside=Rate(int(tallies[OUTSIDE]), rows - missing),
    )


def distance(method: str, reference: IntArray, current: IntArray) -> float:
    """Distance of the current counts from the reference's; 0 is equal.

    Args:
        method: ``psi``, ``jensenshannon`` or ``kl_div``.
        reference: Rows in each bin; at least one.
        current: The same of the rows compared.
    """
    return _METHODS[method](reference / reference.sum(), current / current.sum())


def counts_p_value(reference: IntArray, current: IntArray) -> float:
    """Probability of counts this far apart, or farther, if both samples have one distribution.

    Pearson's chi-squared test of two samples.
    """
    both = _join_sparse_bins(reference, current)
    return _chi_squared_p_value(both) if both.shape[1] > 1 else 1.0


def rates_p_value(reference: Rate, current: Rate) -> float:
    """Probability of two shares this far apart, or farther, if both samples have one rate."""
    counts = [np.array([hits, rows - hits], dtype=np.int64) for hits, rows in (reference, current)]
    both = np.stack(counts)
    # Without hits, misses or rows an expected count is 0, by which the test would divide.
    if (both.sum(axis=0) == 0).any() or (both.sum(axis=1) == 0).any():
        return 1.0
    # Yates's correction keeps the figure honest for a handful of hits.
    return _chi_squared_p_value(both, correction=0.5)


def _chi_squared_p_value(both: IntArray, correction: float = 0.0) -> float:
    from scipy.special import gammaincc

    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    apart = np.maximum(np.abs(both - expected) - correction, 0)
    statistic = float((apart**2 / expected).sum())
    # The upper tail of the chi-squared distribution with bins - 1 degrees of freedom.
    return float(gammaincc((both.shape[1] - 1) / 2, statistic / 2))


def _join_sparse_bins(reference: IntArray, current: IntArray) -> IntArray:
    """Neighbouring bins joined until each expects ten rows of the smaller sample; [2, bins].

    The chi-squared distribution is only a limit: with fewer expected rows the p-value would be
    wrong far out in the tail, where the monitor's bound is.
    """
    rows = int(reference.sum()), int(current.sum())
    least = min(rows) / sum(rows) if sum(rows) else 0.0
    joined: list[tuple[int, int]] = []
    before = after = 0
    # Over Python's own numbers: with NumPy's the loop took longer than everything around it.
    for more_before, more_after in zip(reference.tolist(), current.tolist(), strict=True):
        before, after = before + more_before, after + more_after
        if (before + after) * least >= _LEAST_EXPECTED:
            joined.append((before, after))
            before = after = 0
    if before or after:
        last = joined.pop() if joined else (0, 0)
        joined.append((last[0] + before, last[1] + after))
    return np.array(joined, dtype=np.int64).reshape(-1, 2).T


def _kl_div(reference: FloatArray, current: FloatArray) -> float:
    # Filled, or one unseen value would make the figure infinite.
    filled = np.where(current == 0, EMPTY_BIN_SHARE, current)
    return max(relative_entropy(reference, filled), 0.0)


_METHODS: Mapping[str, Callable[[FloatArray, FloatArray], float]] = {
    **SHARE_DISTANCES,
    "kl_div": _kl_div,
}
