"""``/healthz``, ``/readyz``, ``/metrics``: health, readiness and Prometheus metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.serving.apps.gateway.readiness import ReadinessProbe
from sunloom.serving.asgi.error_body import Problem
from sunloom.serving.auth.middleware import caller
from sunloom.serving.metrics.request_metrics import render_metrics
from sunloom.serving.metrics.served_features import render_served_features


def build_router(settings: Settings, probe: ReadinessProbe) -> APIRouter:
    """Routes for load balancers and Prometheus."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness of the gateway; needs no key."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        """Readiness of every app and each required model; needs no key."""
        readiness = await probe.check()
        if readiness.ready:
            return JSONResponse({"ready": True, "parts": dict(readiness.parts)})
        not_ready = [f"{part}: {state}" for part, state in readiness.parts.items() if state != "ok"]
        problem = Problem(503, "not_ready", f"Not ready. {'; '.join(not_ready)}", "Try again soon.")
        return JSONResponse(problem.body(caller(request.scope).request_id), problem.status)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics of all apps, replicas and monitors as Prometheus text."""
        text = await asyncio.to_thread(_metrics, settings)
        # The version of Prometheus' text format, by which a scraper chooses its parser.
        return Response(text, media_type="text/plain; version=0.0.4")

    return router


def _metrics(settings: Settings) -> str:
    from sunloom.monitoring.prometheus import render_monitoring

    database = open_database(settings)
    return render_metrics(database) + render_served_features(database) + render_monitoring(settings)
