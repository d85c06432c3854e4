"""``/monitoring``: what the last runs found."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter

from sunloom.config import Settings
from sunloom.core.telemetry import list_alerts


def build_router(settings: Settings) -> APIRouter:
    """Routes of drift, quality, performance and alerts."""
    from sunloom.features.monitoring import latest_drift, latest_performance, latest_quality

    router = APIRouter(prefix="/monitoring", tags=["monitoring"])

    @router.get("/drift")
    async def drift() -> dict[str, Any]:
        """The newest drift report of each name."""
        return {"reports": await asyncio.to_thread(latest_drift, settings)}

    @router.get("/quality")
    async def quality() -> dict[str, Any]:
        """Row counts and quarantine reasons of each data set."""
        return {"datasets": await asyncio.to_thread(latest_quality, settings)}

    @router.get("/performance")
    async def performance() -> dict[str, Any]:
        """What evaluation found of each model's newest version."""
        return {"models": await asyncio.to_thread(latest_performance, settings)}

    @router.get("/alerts")
    async def alerts(status: Literal["open", "resolved"] | None = None) -> dict[str, Any]:
        """Alerts, newest first."""
        return {"alerts": await asyncio.to_thread(list_alerts, settings, status)}

    return router
