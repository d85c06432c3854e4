"""``/monitoring``: results of the latest monitoring runs, alerts, and latencies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request

from sunloom.config import Settings
from sunloom.core.alerts import list_alerts
from sunloom.core.database import open_database
from sunloom.core.host_paths import hide_paths_in
from sunloom.core.model_registry import open_registry
from sunloom.serving.auth.tenants import reader_for
from sunloom.serving.metrics.request_metrics import route_latencies
from sunloom.serving.metrics.served_features import served_feature_rates


def build_router(settings: Settings) -> APIRouter:
    """Routes of drift, quality, performance and alerts."""
    router = APIRouter(prefix="/monitoring", tags=["monitoring"])

    # These routes are no coroutines: FastAPI runs them in threads, where the database may block.
    @router.get("/drift")
    def drift(monitor: str | None = None) -> dict[str, Any]:
        """The newest drift report of each name, or one monitor's reports, newest first."""
        from sunloom.monitoring.stored_results import drift_over_time, latest_drift

        reports = latest_drift(settings) if monitor is None else drift_over_time(settings, monitor)
        return _without_paths(settings, {"reports": [asdict(report) for report in reports]})

    @router.get("/quality")
    def quality(monitor: str | None = None) -> dict[str, Any]:
        """Data sets' counts, results of checks, rates of watched features, and skew.

        With ``monitor``, all its windows, newest first.
        """
        from sunloom.data.datasets import dataset_summaries
        from sunloom.data.quality.report import latest_verdicts

        answer: dict[str, Any] = {
            "datasets": [
                {"dataset": summary.dataset, **summary.summary}
                for summary in dataset_summaries(settings)
            ],
            "checks": [asdict(verdict) for verdict in latest_verdicts(settings)],
            "features": _windows(settings, "quality", monitor),
            "skew": _windows(settings, "skew", monitor),
        }
        return _without_paths(settings, answer)

    @router.get("/performance")
    def performance(request: Request, monitor: str | None = None) -> dict[str, Any]:
        """Models' metrics, features' lag and speed, routes' latencies, rates of served nulls."""
        database = open_database(settings)
        # The registry lists the versions of a name in order: the last one stays.
        versions = open_registry(settings).list(reader=reader_for(request.scope))
        newest = {version.name: version for version in versions}
        answer: dict[str, Any] = {
            "models": [
                {
                    "model": version.ref,
                    "kind": version.kind,
                    "created_at": version.created_at.isoformat(),
                    "metrics": {
                        name: value
                        for name, value in version.metrics.items()
                        if isinstance(value, int | float | str)
                    },
                }
                for _, version in sorted(newest.items())
            ],
            "features": _windows(settings, "performance", monitor),
            "costs": _windows(settings, "cost", monitor),
            "serving": [asdict(latency) for latency in route_latencies(database)],
            "answers": [asdict(rates) for rates in served_feature_rates(database)],
        }
        return _without_paths(settings, answer)

    @router.get("/alerts")
    def alerts(status: Literal["open", "resolved"] | None = None) -> dict[str, Any]:
        """Alerts, newest first."""
        return _without_paths(
            settings, {"alerts": [asdict(one) for one in list_alerts(settings, status)]}
        )

    return router


def _without_paths(settings: Settings, answer: dict[str, Any]) -> dict[str, Any]:
    # Reports and alerts name files; where the outputs are is known to whoever may open them.
    shown: dict[str, Any] = hide_paths_in(answer, settings.paths.outputs)
    return shown


def _windows(settings: Settings, kind: str, monitor: str | None) -> list[dict[str, Any]]:
    from sunloom.monitoring.stored_results import latest_results, results_over_time

    if monitor is None:
        results = latest_results(settings, kind)
    else:
        results = results_over_time(settings, kind, monitor)
    return [
        {
            "monitor": result.monitor,
            "window": result.window,
            **result.data,
            "created_at": result.created_at,
        }
        for result in results
    ]
