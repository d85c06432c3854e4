"""The gateway's and the features' real apps over HTTP, behind real keys, without Ray Serve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import uvicorn

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.processes import free_port
from sunloom.serving.asgi import ASGIApp, Receive, Scope, Send
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.deploy.applications import load_builder
from sunloom.serving.metrics.request_metrics import RequestMetrics


@contextmanager
def small_gateway(settings: Settings) -> Iterator[httpx.Client]:
    """A client with a key that may do everything."""
    key, _ = create_key(settings, ["admin"], "acme", allowance=Allowance(1_000_000))
    port = free_port()
    config = uvicorn.Config(_both(settings), port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    headers = {"Authorization": f"Bearer {key}"}
    try:
        _until_started(server)
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, headers=headers, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


def _both(settings: Settings) -> ASGIApp:
    apps = {
        name: GatewayMiddleware(
            load_builder(name)(settings),
            KeyAdmission(settings, RequestMetrics(open_database(settings), name)),
            name,
        )
        for name in ("features", "gateway")
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_features = scope.get("path", "").startswith("/features")
        await apps["features" if is_features else "gateway"](scope, receive, send)

    return app


def _until_started(server: Any) -> None:
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
