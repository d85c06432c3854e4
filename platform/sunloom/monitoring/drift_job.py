"""One drift run: read, compare, store, alert."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sunloom.config.monitoring.recipe import AlertConfig, MonitoringRecipe
from sunloom.core.alerts.alert import Alert
from sunloom.core.alerts.delivery import emit_alert, resolve_alert
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift.compare import DriftReport, drift_report
from sunloom.monitoring.drift_table import store_drift
from sunloom.monitoring.event_features import default_folder, event_features, in_period, read_events


def run_drift(recipe: MonitoringRecipe) -> dict[str, Any]:
    """Compare the recipe's two periods, store the report, raise or resolve its alert.

    Args:
        recipe: Rows, comparison, alert.

    Returns:
        ``drifted_features`` and ``alerts`` (counts), ``report`` (path of the HTML, or of the JSON
        where the engine writes no HTML), ``numbers`` (path of the JSON) and ``features``.

    Raises:
        UsageError: The rows do not exist.
        DataError: A period or a feature is empty, or a column is missing.
    """
    config = recipe.events
    rows = event_features(read_events(recipe), config)
    periods = [
        in_period(rows, config.event_time, period) for period in (config.reference, config.current)
    ]
    report = drift_report(periods[0], periods[1], recipe.drift, default_folder(recipe))
    store_drift(recipe, config.name, str(config.reference), str(config.current), report)
    raised = _settle_alert(recipe, report)
    _log(recipe, report)
    return {
        "drifted_features": len(report.drifted_features),
        "alerts": int(raised),
        "report": str(report.html or report.numbers),
        "numbers": str(report.numbers),
        "features": [asdict(feature) for feature in report.features],
    }


def build_alert(recipe: MonitoringRecipe, report: DriftReport) -> Alert:
    """The alert that a report is about, whether or not it is raised."""
    config, events = recipe.alert, recipe.events
    share = len(report.drifted_features) / max(len(report.features), 1)
    names = ", ".join(
        f"{feature.feature} ({feature.method} {feature.value:.3f})"
        for feature in report.drifted_features
    )
    return Alert(
        name=config.name,
        severity="critical" if share >= config.critical_share else config.severity,
        message=(
            f"{len(report.drifted_features)} of {len(report.features)} features of {events.name} "
            f"drifted between {events.reference} and {events.current}: {names or 'none'}"
        ),
        labels={"report": events.name},
        value=float(len(report.drifted_features)),
        threshold=float(config.min_features),
    )


def _settle_alert(recipe: MonitoringRecipe, report: DriftReport) -> bool:
    alert = build_alert(recipe, report)
    if is_alarming(recipe.alert, report):
        emit_alert(recipe, alert)
        return True
    resolve_alert(recipe, alert)
    return False


def is_alarming(config: AlertConfig, report: DriftReport) -> bool:
    """Whether enough features drifted."""
    return len(report.drifted_features) >= config.min_features


def _log(recipe: MonitoringRecipe, report: DriftReport) -> None:
    log = get_logger("monitoring")
    drifted, count = len(report.drifted_features), len(report.features)
    log.info("%s: %d of %d features drifted", recipe.events.name, drifted, count)
