"""One window against its reference: which features drifted, and how good their values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sunloom.config.monitoring.watch import WatchConfig
from sunloom.data.quality.drift.compare import FeatureDrift
from sunloom.monitoring.bins import BINNING, Bins
from sunloom.monitoring.histogram_distances import chance_of_counts, chance_of_rates, distance
from sunloom.monitoring.histograms import DEFAULT, MISSING, OUTSIDE, ROWS, Histogram

Rule = Literal["feature_drift", "feature_null_rate", "feature_default_rate", "feature_range"]


@dataclass(frozen=True)
class Finding:
    """One rule about one feature in one window.

    Attributes:
        rule: Name of the alert.
        feature: The feature.
        value: What the window came to.
        threshold: The bound.
        flagged: Whether it is past the bound and no chance.
        calm: Whether it lies well below the bound.
        message: One sentence.
    """

    rule: Rule
    feature: str
    value: float
    threshold: float
    flagged: bool
    calm: bool
    message: str


def drift_findings(
    reference: Histogram, current: Histogram, cells: Bins, config: WatchConfig
) -> list[Finding]:
    """Each feature's distance from its reference.

    A feature drifted where the distance reaches the threshold and the chance of that without a
    change, times the number of features, lies below ``false_alarms``: so few rows alone, or many
    features, raise nothing.
    """
    bound = config.false_alarms / max(len(cells.features), 1)
    near = config.alerts.clear_share * config.threshold
    found = []
    for number, feature in enumerate(cells.features):
        before, after = reference.of(cells, number), current.of(cells, number)
        value = distance(config.method, before, after) if before.sum() and after.sum() else 0.0
        is_sure = value >= near and chance_of_counts(before, after) <= bound
        drifted = is_sure and value >= config.threshold
        word = "drifted" if drifted else "is steady"
        message = f"{feature.name} of {config.name} {word}: {config.method} {value:.3f}"
        found.append(
            Finding(
                "feature_drift", feature.name, value, config.threshold,
                drifted, not is_sure, message,
            )
        )  # fmt: skip
    return found


def drift_features(findings: Sequence[Finding], config: WatchConfig) -> tuple[FeatureDrift, ...]:
    """The findings about drift in the form of a drift report."""
    return tuple(
        FeatureDrift(one.feature, config.method, one.value, one.threshold, one.flagged, BINNING)
        for one in findings
        if one.rule == "feature_drift"
    )


def feature_quality(reference: Histogram, current: Histogram, cells: Bins) -> list[dict[str, Any]]:
    """Each feature's rates and range, beside the reference's rates."""
    rows = []
    for number, feature in enumerate(cells.features):
        now, then = _rates(current, number), _rates(reference, number)
        low, high = (float(value) for value in current.extremes[number])
        rows.append(
            {
                "feature": feature.name,
                "rows": int(current.tallies[number, ROWS]),
                **{name: rate for name, (rate, _, _) in now.items()},
                **{f"reference_{name}": rate for name, (rate, _, _) in then.items()},
                "minimum": low if low == low else None,
                "maximum": high if high == high else None,
            }
        )
    return rows


def quality_findings(
    reference: Histogram, current: Histogram, cells: Bins, config: WatchConfig
) -> list[Finding]:
    """Rates that rose past their bounds, and values outside the reference's range."""
    bounds = config.quality
    rises: list[tuple[Rule, str, float, str]] = [
        ("feature_null_rate", "null_rate", bounds.null_rate_rise, "is missing"),
        ("feature_default_rate", "default_rate", bounds.default_rate_rise, "is the default"),
        ("feature_range", "outside_rate", bounds.outside_rate, "is outside its range"),
    ]
    sure = config.false_alarms / max(3 * len(cells.features), 1)
    found = []
    for number, feature in enumerate(cells.features):
        now, then = _rates(current, number), _rates(reference, number)
        for rule, name, bound, words in rises:
            (rate, hits, rows), (before, hits_then, rows_then) = now[name], then[name]
            rise = rate - before
            flagged = (
                rise >= bound and chance_of_rates((hits_then, rows_then), (hits, rows)) <= sure
            )
            message = f"{feature.name} of {config.name} {words} in {rate:.1%} of the rows"
            was = f", {before:.1%} in the reference"
            calm = rise < config.alerts.clear_share * bound
            found.append(Finding(rule, feature.name, rise, bound, flagged, calm, message + was))
    return found


def _rates(histogram: Histogram, number: int) -> dict[str, tuple[float, int, int]]:
    """Share, hits and rows of each kind of poor value."""
    tallies = histogram.tallies[number]
    rows = int(tallies[ROWS])
    there = rows - int(tallies[MISSING])
    counts = {
        "null_rate": (int(tallies[MISSING]), rows),
        "default_rate": (int(tallies[DEFAULT]), rows),
        "outside_rate": (int(tallies[OUTSIDE]), there),
    }
    return {name: (hits / of if of else 0.0, hits, of) for name, (hits, of) in counts.items()}
