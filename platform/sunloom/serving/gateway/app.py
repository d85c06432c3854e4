"""Builds the gateway's FastAPI app."""

from __future__ import annotations

from fastapi import FastAPI

from sunloom.config import Settings
from sunloom.serving.gateway import health, registry
from sunloom.serving.http import build_fastapi


def build_gateway_app(settings: Settings) -> FastAPI:
    """Health, docs, registry, keys, training and monitoring."""
    app = build_fastapi("Sunloom")
    app.include_router(health.build_router(settings))
    app.include_router(registry.build_router(settings))
    return app
