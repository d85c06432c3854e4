"""``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.serving.gateway.readiness import Probe
from sunloom.serving.metrics import render_metrics


def build_router(settings: Settings) -> APIRouter:
    """Routes for load balancers and Prometheus."""
    router = APIRouter(tags=["health"])
    probe = Probe(settings)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers; needs no key."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """Whether every app answers and each required model has answered once; no key."""
        readiness = await probe.check()
        body = {"ready": readiness.ready, "parts": dict(readiness.parts)}
        return JSONResponse(body, 200 if readiness.ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Requests of all apps and replicas, as Prometheus text."""
        text = await asyncio.to_thread(render_metrics, open_database(settings))
        return Response(text, media_type="text/plain; version=0.0.4")

    return router
