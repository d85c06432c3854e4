"""The gateway app at ``/``: health, docs, registry, keys, training and monitoring."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from sunloom.config import Settings
from sunloom.errors import NotFoundError
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.fastapi_app import build_fastapi, error_response
from sunloom.serving.apps.gateway import (
    generate_routes,
    health_routes,
    key_routes,
    model_routes,
    monitoring_routes,
    openapi_docs,
    training_routes,
)
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.apps.gateway.readiness import ReadinessProbe

_OWN_ROUTES = (
    "/docs", "/healthz", "/keys", "/llm/generate", "/llm/train", "/llm/training", "/metrics",
    "/models", "/monitoring", "/openapi.json", "/readyz",
)  # fmt: skip
_ROUTES = sorted({*_OWN_ROUTES, *(app.prefix for app in APPS.values() if app.prefix != "/")})


def build_gateway_app(settings: Settings) -> FastAPI:
    """The gateway's FastAPI app; the middleware goes in front of it."""
    app = build_fastapi("Sunloom")
    client = InnerClient(settings)
    app.include_router(health_routes.build_router(settings, ReadinessProbe(settings, client)))
    app.include_router(model_routes.build_router(settings))
    app.include_router(key_routes.build_router(settings))
    app.include_router(generate_routes.build_router(settings, client))
    app.include_router(training_routes.build_router(settings))
    app.include_router(monitoring_routes.build_router(settings))
    app.include_router(openapi_docs.build_router(settings, client, app))
    app.add_exception_handler(404, _not_found)
    return app


async def _not_found(request: Request, _error: Exception) -> Response:
    """The response for paths without a route, and for those of apps that are not deployed."""
    path = request.url.path
    # The language app has this prefix: Serve sends its paths here only while it is not deployed.
    if path == "/v1" or path.startswith("/v1/"):
        return error_response(
            request,
            NotFoundError(
                "No language model is deployed.",
                "Register a base model (make demo does) and start the gateway again.",
            ),
        )
    return error_response(
        request, NotFoundError(f"There is no route {path}.", known=_ROUTES, name=path)
    )
