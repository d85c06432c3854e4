"""The newest results of every monitor as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sunloom.config import Settings
from sunloom.core.alerts import SEVERITIES, list_alerts
from sunloom.monitoring.stored_results import WindowFigures, latest_drift, latest_results

# The three characters that Prometheus' text format escapes in a label.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_RATES = ("null_rate", "default_rate", "outside_rate")

Samples = Iterator[tuple[str, float]]
"""Labels and value of each sample."""


def render_monitoring(settings: Settings) -> str:
    """Drift, rates, lag, speed and open alerts; a gauge each."""
    lines: list[str] = []
    for name, meaning, samples in _gauges(settings):
        values = [f"sunloom_{name}{{{labels}}} {value:.9g}" for labels, value in samples]
        # A gauge without samples is left out, with its two comment lines.
        if values:
            lines += [f"# HELP sunloom_{name} {meaning}", f"# TYPE sunloom_{name} gauge", *values]
    return "\n".join(lines) + "\n" if lines else ""


def _gauges(settings: Settings) -> Iterator[tuple[str, str, Samples]]:
    """Name, help and samples of each gauge."""
    reports = latest_drift(settings)
    drift = (
        (_labels(monitor=report.report, feature=one.feature, method=one.method), one.value)
        for report in reports
        for one in report.features
        # What cannot be compared has no distance; it counts as drifted below.
        if one.value is not None
    )
    yield "feature_drift", "Distance of a feature from its reference.", drift
    counts = (
        (_labels(monitor=report.report), float(report.drifted_features)) for report in reports
    )
    yield "feature_drifted", "Features of a monitor that drifted in its newest window.", counts
    quality = latest_results(settings, "quality")
    for rate in _RATES:
        meaning = f"Share of a feature's values in the newest window: {rate.removesuffix('_rate')}."
        yield f"feature_{rate}", meaning, _feature_samples(quality, rate)
    performance = latest_results(settings, "performance")
    for name, key, meaning in (
        ("feature_freshness_lag_seconds", "freshness_lag_s", "Age of a monitor's newest row."),
        ("feature_rows_per_second", "rows_per_s", "Rows that a monitor counts in a second."),
    ):
        # A round that took no time has no speed, and a source without rows no lag.
        results = [result for result in performance if result.data[key] is not None]
        yield name, meaning, ((_labels(monitor=r.monitor), r.data[key]) for r in results)
    meaning = "CPU time of a feature computed alone, on a sample."
    costs = latest_results(settings, "cost")
    yield "feature_cost_ms", meaning, _feature_samples(costs, "alone_ms", "feature_set")
    meaning = "Share of a feature's served values that differ from offline."
    skew = latest_results(settings, "skew")
    yield "feature_skew_rate", meaning, _feature_samples(skew, "skew_rate", "feature_set")
    severities = [alert.severity for alert in list_alerts(settings, "open")]
    alerts = ((_labels(severity=name), float(severities.count(name))) for name in SEVERITIES)
    yield "alerts_open", "Open alerts by severity.", alerts


def _feature_samples(results: Sequence[WindowFigures], key: str, owner: str = "monitor") -> Samples:
    for result in results:
        for feature in result.data["features"]:
            yield _labels(**{owner: result.monitor, "feature": feature["feature"]}), feature[key]


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
