"""The agents' app behind its real guard, as a real server on loopback in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from sunloom.agents.hosts import Hosts
from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.processes import free_port
from sunloom.serving.apps.agents import build_agents_app
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.metrics.request_metrics import RequestMetrics


@contextmanager
def agents_app(settings: Settings, gateway_url: str, hosts: Hosts | None = None) -> Iterator[str]:
    """The app's address; its agents call ``gateway_url``."""
    serving = settings.serving.model_copy(update={"port": int(gateway_url.rsplit(":", 1)[1])})
    settings = settings.model_copy(update={"serving": serving})
    admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "agents"))
    app = GatewayMiddleware(build_agents_app(settings, hosts), admission, "agents")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started, 20)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def wait(done: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
