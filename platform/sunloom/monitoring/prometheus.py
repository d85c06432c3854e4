"""The newest results of every monitor as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sunloom.config import Settings
from sunloom.core.alerts.alert import SEVERITIES
from sunloom.core.alerts.delivery import list_alerts
from sunloom.monitoring.drift_table import latest_drift
from sunloom.monitoring.results_table import latest_results

_RATES = ("null_rate", "default_rate", "outside_rate")


def render_monitoring(settings: Settings) -> str:
    """Drift, rates, lag, speed and open alerts; a gauge each."""
    lines: list[str] = []
    for name, meaning, samples in _gauges(settings):
        found = [f"sunloom_{name}{{{labels}}} {value:.9g}" for labels, value in samples]
        if found:
            lines += [f"# HELP sunloom_{name} {meaning}", f"# TYPE sunloom_{name} gauge", *found]
    return "\n".join(lines) + "\n" if lines else ""


Samples = Iterator[tuple[str, float]]


def _gauges(settings: Settings) -> Iterator[tuple[str, str, Samples]]:
    reports = latest_drift(settings)
    yield "feature_drift", "Distance of a feature from its reference.", _drift(reports)
    yield (
        "feature_drifted", "Features of a monitor that drifted in its newest window.",
        ((_labels(monitor=one["report"]), float(one["drifted_features"])) for one in reports),
    )  # fmt: skip
    quality = latest_results(settings, "quality")
    for rate in _RATES:
        meaning = f"Share of a feature's values in the newest window: {rate.removesuffix('_rate')}."
        yield f"feature_{rate}", meaning, _rate(quality, rate)
    performance = latest_results(settings, "performance")
    for name, key, meaning in (
        ("feature_freshness_lag_seconds", "freshness_lag_s", "Age of a monitor's newest row."),
        ("feature_rows_per_second", "rows_per_s", "Rows that a monitor counts in a second."),
    ):
        yield name, meaning, _figure(performance, key)
    costs = latest_results(settings, "cost")
    yield (
        "feature_cost_ms",
        "CPU time of a feature computed alone, on a sample.",
        _rate(costs, "alone_ms", "feature_set"),
    )
    skew = latest_results(settings, "skew")
    meaning = "Share of a feature's served values that differ from offline."
    yield "feature_skew_rate", meaning, _rate(skew, "skew_rate", "feature_set")
    yield "alerts_open", "Open alerts by severity.", _alerts(settings)


def _drift(reports: list[dict[str, Any]]) -> Samples:
    for report in reports:
        for one in report["features"]:
            labels = _labels(monitor=report["report"], feature=one["feature"], method=one["method"])
            yield labels, one["value"]


def _rate(results: list[dict[str, Any]], rate: str, of: str = "monitor") -> Samples:
    for result in results:
        for one in result["features"]:
            yield _labels(**{of: result["monitor"], "feature": one["feature"]}), one[rate]


def _figure(results: list[dict[str, Any]], key: str) -> Samples:
    for result in results:
        if result[key] is not None:
            yield _labels(monitor=result["monitor"]), result[key]


def _alerts(settings: Settings) -> Samples:
    severities = [alert.severity for alert in list_alerts(settings, "open")]
    for severity in SEVERITIES:
        yield _labels(severity=severity), float(severities.count(severity))


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
