"""Findings: one window against its reference, drift and quality of each feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sunloom.config.monitoring import WatchConfig
from sunloom.data.quality.drift.compare import FeatureDrift
from sunloom.monitoring.bins import BINNING, Bins
from sunloom.monitoring.histogram_distances import Rate, counts_p_value, distance, rates_p_value
from sunloom.monitoring.histograms import DEFAULT, MISSING, OUTSIDE, ROWS, Histogram

Rule = Literal["feature_drift", "feature_null_rate", "feature_default_rate", "feature_range"]


@dataclass(frozen=True)
class Finding:
    """One rule's result for one feature in one window.

    Attributes:
        rule: Name of the alert.
        feature: The feature.
        value: The window's value.
        threshold: The bound.
        flagged: Whether the value is past the bound, and significantly so.
        calm: Whether it is well below the bound.
        message: One sentence.
    """

    rule: Rule
    feature: str
    value: float
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


@dataclass(frozen=True)
class _Rates:
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
    nor many features raise an alert by themselves.
    """
    # Bonferroni's correction: false_alarms holds for all features of a window together.
    bound = config.false_alarms / max(len(bins.features), 1)
    near = config.alerts.clear_share * config.threshold
    findings = []
    for number, feature in enumerate(bins.features):
        before = reference.feature_counts(bins, number)
        after = current.feature_counts(bins, number)
        value = distance(config.method, before, after) if before.sum() and after.sum() else 0.0
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
    return findings


def drift_features(findings: Sequence[Finding], config: WatchConfig) -> tuple[FeatureDrift, ...]:
    """The findings about drift in the form of a drift report."""
    return tuple(
        FeatureDrift(
            feature=finding.feature,
            method=config.method,
            value=finding.value,
            threshold=finding.threshold,
            drifted=finding.flagged,
            binning=BINNING,
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
    findings = []
    for number, feature in enumerate(bins.features):
        now, then = _rates(current, number), _rates(reference, number)
        rises: list[tuple[Rule, Rate, Rate, float, str]] = [
            ("feature_null_rate", now.null, then.null, config.quality.null_rate_rise, "is missing"),
            (
                "feature_default_rate", now.default, then.default,
                config.quality.default_rate_rise, "is the default",
            ),
            (
                "feature_range", now.outside, then.outside,
                config.quality.outside_rate, "is outside its range",
            ),
        ]  # fmt: skip
        for rule, rate, before, bound, words in rises:
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
