"""A drift run: two periods of an event log compared, stored, and alerted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.config.monitoring import AlertConfig, MonitoringRecipe
from sunloom.core.alerts import Alert, emit_alert, resolve_alert
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift.compare import DriftReport, FeatureDrift, drift_report
from sunloom.monitoring.drift_table import store_drift
from sunloom.monitoring.event_features import event_features, in_period, read_events


@dataclass(frozen=True)
class DriftRunResult:
    """A drift run's figures and files.

    Attributes:
        drifted_features: Number of features that drifted.
        alerts: Alerts raised: 0 or 1.
        report: Evidently's page, or the JSON where the engine writes none.
        numbers: The JSON.
        features: Each feature's comparison.
    """

    drifted_features: int
    alerts: int
    report: str
    numbers: str
    features: Sequence[FeatureDrift]

    def to_dict(self) -> dict[str, Any]:
        """The result as the command line prints it."""
        return asdict(self)


def run_drift(recipe: MonitoringRecipe) -> DriftRunResult:
    """Compare the recipe's two periods, store the report, raise or resolve its alert.

    Args:
        recipe: Rows, comparison, alert.

    Raises:
        UsageError: The rows do not exist.
        DataError: A period or a feature is empty, or a column is missing.
    """
    config = recipe.events
    # Of the whole log, because gaps and counts reach back to before a period.
    rows = event_features(read_events(recipe), config)
    reference, current = (
        in_period(rows, config.event_time, period) for period in (config.reference, config.current)
    )
    report = drift_report(reference, current, recipe.drift, report_folder(recipe))
    store_drift(recipe, config.name, str(config.reference), str(config.current), report)
    alert, is_raised = build_alert(recipe, report), is_alarming(recipe.alert, report)
    if is_raised:
        emit_alert(recipe, alert)
    else:
        # The alert of an earlier run that found drift, if there is one.
        resolve_alert(recipe, alert)
    drifted = len(report.drifted_features)
    get_logger("monitoring").info(
        "%s: %d of %d features drifted", config.name, drifted, len(report.features)
    )
    return DriftRunResult(
        drifted_features=drifted,
        alerts=int(is_raised),
        report=str(report.html or report.numbers),
        numbers=str(report.numbers),
        features=report.features,
    )


def report_folder(recipe: MonitoringRecipe) -> Path:
    """Folder of the recipe's report."""
    return recipe.paths.outputs / "monitoring" / recipe.events.name


def build_alert(recipe: MonitoringRecipe, report: DriftReport) -> Alert:
    """The alert that a report is about, whether or not it is raised."""
    config, events, drifted = recipe.alert, recipe.events, report.drifted_features
    share = len(drifted) / max(len(report.features), 1)
    names = ", ".join(f"{one.feature} ({one.method} {one.value:.3f})" for one in drifted)
    return Alert(
        name=config.name,
        severity="critical" if share >= config.critical_share else config.severity,
        message=(
            f"{len(drifted)} of {len(report.features)} features of {events.name} drifted "
            f"between {events.reference} and {events.current}: {names or 'none'}"
        ),
        labels={"report": events.name},
        value=float(len(drifted)),
        threshold=float(config.min_features),
    )


def is_alarming(config: AlertConfig, report: DriftReport) -> bool:
    """Whether enough features drifted."""
    return len(report.drifted_features) >= config.min_features
