"""Hosts of agents: they run one runtime per agent and can wake it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime
from sunloom.agents.store import AgentStore
from sunloom.agents.tables import AgentRow
from sunloom.config.agents import AgentSpec


class Hosts(Protocol):
    """Runs agents. The queue is in the database, so waking an agent only saves time."""

    async def wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        """Start the agent if necessary, give it this key, and let it check its queue now."""
        ...


class LocalHosts:
    """Runs agents in this process, on its event loop; for tests and for use without a cluster.

    Args:
        store: Queue, events and journal.
    """

    def __init__(self, store: AgentStore) -> None:
        self._store = store
        self._runtimes: dict[str, AgentRuntime] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}

    async def wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        """Start the agent if necessary, give it this key, and let it check its queue now."""
        if agent.id not in self._runtimes:
            spec = AgentSpec.model_validate(agent.spec)
            # Importing an engine takes seconds: other requests go on meanwhile.
            runtime = await asyncio.to_thread(AgentRuntime, agent.id, spec, self._store, endpoint)
            # Another request may have built the same runtime meanwhile; the first one counts.
            if self._runtimes.setdefault(agent.id, runtime) is runtime:
                self._serving[agent.id] = asyncio.create_task(runtime.serve())
        await self._runtimes[agent.id].wake(endpoint)

    async def close(self) -> None:
        """Stop all agents; their unfinished tasks are queued again at the next start."""
        for task in self._serving.values():
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)
