"""The gateway's, the features' and further real apps over HTTP, behind real keys, without Serve."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import uvicorn

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.processes import free_port
from sunloom.serving.app_table import APPS
from sunloom.serving.asgi import ASGIApp, Receive, Scope, Send
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.deploy.applications import load_builder
from sunloom.serving.metrics.request_metrics import RequestMetrics


@contextmanager
def small_gateway(
    settings: Settings, others: Mapping[str, ASGIApp] | None = None
) -> Iterator[httpx.Client]:
    """A client with a key that may do everything.

    Args:
        settings: The apps' settings.
        others: Further apps by their names in the table of apps, without their middleware.
    """
    key, _ = create_key(settings, ["admin"], "acme", allowance=Allowance(1_000_000))
    port = free_port()
    # The gateway calls the other apps at its own address.
    serving = settings.serving.model_copy(update={"port": port})
    settings = settings.model_copy(update={"serving": serving})
    config = uvicorn.Config(_all(settings, others or {}), port=port, log_level="warning", ws="none")
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


def _all(settings: Settings, others: Mapping[str, ASGIApp]) -> ASGIApp:
    built = {name: load_builder(name)(settings) for name in ("features", "gateway")}
    # As HAProxy sends a request: by the longest prefix.
    apps = {
        APPS[name].prefix: GatewayMiddleware(
            app,
            KeyAdmission(settings, RequestMetrics(open_database(settings), name)),
            name,
            limits=settings.serving.limits,
        )
        for name, app in {**built, **others}.items()
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        prefix = max((p for p in apps if path.startswith(p)), key=len, default="/")
        await apps[prefix](scope, receive, send)

    return app


def _until_started(server: Any) -> None:
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
