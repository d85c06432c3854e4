"""Drift, quality and performance of features over time, and the alerts they raise.

Cheap to import; Evidently loads inside the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.monitoring.costs import feature_costs
    from sunloom.features.monitoring.drift import DriftReport, FeatureDrift, drift_report
    from sunloom.features.monitoring.job import run_drift
    from sunloom.features.monitoring.metrics import render_monitoring
    from sunloom.features.monitoring.psi import BINNING, population_stability_index
    from sunloom.features.monitoring.records import drift_over_time, latest_drift
    from sunloom.features.monitoring.results import latest_results, results_over_time
    from sunloom.features.monitoring.service import keep_monitoring, run_monitoring
    from sunloom.features.monitoring.summaries import latest_performance, latest_quality
    from sunloom.features.monitoring.watch import run_watch

__all__ = [
    "BINNING",
    "DriftReport",
    "FeatureDrift",
    "drift_over_time",
    "drift_report",
    "feature_costs",
    "keep_monitoring",
    "latest_drift",
    "latest_performance",
    "latest_quality",
    "latest_results",
    "population_stability_index",
    "render_monitoring",
    "results_over_time",
    "run_drift",
    "run_monitoring",
    "run_watch",
]

_HOMES = {
    "BINNING": "psi",
    "DriftReport": "drift",
    "FeatureDrift": "drift",
    "drift_over_time": "records",
    "drift_report": "drift",
    "feature_costs": "costs",
    "keep_monitoring": "service",
    "latest_drift": "records",
    "latest_performance": "summaries",
    "latest_quality": "summaries",
    "latest_results": "results",
    "population_stability_index": "psi",
    "render_monitoring": "metrics",
    "results_over_time": "results",
    "run_drift": "job",
    "run_monitoring": "service",
    "run_watch": "watch",
}

__getattr__ = lazy_exports(__name__, _HOMES)
