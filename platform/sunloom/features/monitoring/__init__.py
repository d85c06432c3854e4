"""Drift reports, the alerts they raise, and summaries for the gateway.

Cheap to import; Evidently loads inside the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.monitoring.drift import DriftReport, FeatureDrift, drift_report
    from sunloom.features.monitoring.job import run_drift
    from sunloom.features.monitoring.psi import BINNING, population_stability_index
    from sunloom.features.monitoring.records import latest_drift
    from sunloom.features.monitoring.summaries import latest_performance, latest_quality

__all__ = [
    "BINNING",
    "DriftReport",
    "FeatureDrift",
    "drift_report",
    "latest_drift",
    "latest_performance",
    "latest_quality",
    "population_stability_index",
    "run_drift",
]

_HOMES = {
    "BINNING": "psi",
    "DriftReport": "drift",
    "FeatureDrift": "drift",
    "drift_report": "drift",
    "latest_drift": "records",
    "latest_performance": "summaries",
    "latest_quality": "summaries",
    "population_stability_index": "psi",
    "run_drift": "job",
}

__getattr__ = lazy_exports(__name__, _HOMES)
