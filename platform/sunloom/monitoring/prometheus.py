"""The newest results of every monitor as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sunloom.config import Settings
from sunloom.core.alerts import SEVERITIES, list_alerts
from sunloom.monitoring.drift_table import StoredDriftReport, latest_drift
from sunloom.monitoring.results_table import WindowFigures, latest_results

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
    yield "feature_drift", "Distance of a feature from its reference.", _drift_samples(reports)
    yield (
        "feature_drifted", "Features of a monitor that drifted in its newest window.",
        ((_labels(monitor=one.report), float(one.drifted_features)) for one in reports),
    )  # fmt: skip
    quality = latest_results(settings, "quality")
    for rate in _RATES:
        meaning = f"Share of a feature's values in the newest window: {rate.removesuffix('_rate')}."
        yield f"feature_{rate}", meaning, _feature_samples(quality, rate)
    performance = latest_results(settings, "performance")
    for name, key, meaning in (
        ("feature_freshness_lag_seconds", "freshness_lag_s", "Age of a monitor's newest row."),
        ("feature_rows_per_second", "rows_per_s", "Rows that a monitor counts in a second."),
    ):
        yield name, meaning, _monitor_samples(performance, key)
    costs = latest_results(settings, "cost")
    yield (
        "feature_cost_ms",
        "CPU time of a feature computed alone, on a sample.",
        _feature_samples(costs, "alone_ms", "feature_set"),
    )
    skew = latest_results(settings, "skew")
    meaning = "Share of a feature's served values that differ from offline."
    yield "feature_skew_rate", meaning, _feature_samples(skew, "skew_rate", "feature_set")
    yield "alerts_open", "Open alerts by severity.", _alert_samples(settings)


def _drift_samples(reports: Sequence[StoredDriftReport]) -> Samples:
    for report in reports:
        for one in report.features:
            yield _labels(monitor=report.report, feature=one.feature, method=one.method), one.value


def _feature_samples(results: Sequence[WindowFigures], key: str, owner: str = "monitor") -> Samples:
    for result in results:
        for feature in result.data["features"]:
            yield _labels(**{owner: result.monitor, "feature": feature["feature"]}), feature[key]


def _monitor_samples(results: Sequence[WindowFigures], key: str) -> Samples:
    for result in results:
        # A round that took no time has no speed, and a source without rows no lag.
        if result.data[key] is not None:
            yield _labels(monitor=result.monitor), result.data[key]


def _alert_samples(settings: Settings) -> Samples:
    severities = [alert.severity for alert in list_alerts(settings, "open")]
    for severity in SEVERITIES:
        yield _labels(severity=severity), float(severities.count(severity))


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(text: str) -> str:
    # The three characters that Prometheus' text format escapes in a label.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
