"""The agents' app behind its real guard, as a real server on loopback in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime, Hosts
from sunloom.agents.store import AgentRow, AgentStore
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import open_database
from sunloom.core.processes import free_port
from sunloom.serving.apps.agents import build_agents_app
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.metrics.request_metrics import RequestMetrics


class NoHosts:
    """Runs nothing."""

    async def wake(self, *_: Any) -> None:
        return

    async def end(self, *_: Any) -> None:
        return


class LocalHosts:
    """Runs agents in this process, on the event loop of the app."""

    def __init__(self, store: AgentStore) -> None:
        self._store = store
        self._runtimes: dict[str, AgentRuntime] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}

    async def wake(self, agent: AgentRow, task_id: str, endpoint: Endpoint) -> None:
        if agent.id not in self._runtimes:
            spec = AgentSpec.from_stored(agent.spec)
            # Importing an engine takes seconds: other requests go on meanwhile.
            gateway = Endpoint(endpoint.base_url, "")
            runtime = await asyncio.to_thread(AgentRuntime, agent.id, spec, self._store, gateway)
            # Another request may have built the same runtime meanwhile; the first one counts.
            if self._runtimes.setdefault(agent.id, runtime) is runtime:
                self._serving[agent.id] = asyncio.create_task(runtime.serve())
        await self._runtimes[agent.id].wake(task_id, endpoint)

    async def end(self, agent_id: str) -> None:
        self._runtimes.pop(agent_id, None)
        if (serving := self._serving.pop(agent_id, None)) is not None:
            serving.cancel()


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
