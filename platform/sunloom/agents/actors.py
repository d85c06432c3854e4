"""The Ray shell: one actor per agent, restarted by Ray, built from its specification alone."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime
from sunloom.agents.store import AgentStore
from sunloom.agents.tables import AgentRow
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database
from sunloom.core.telemetry import silence_libraries

NAMESPACE = "sunloom-agents"


class AgentActor:
    """An agent in a process of its own.

    After a kill Ray builds it again with the same arguments; it then queues its unfinished tasks
    again, and the journal answers the calls that had finished.

    Args:
        agent_id: The agent.
        spec: Its specification as plain data.
        database_url: Where its queue, events and journal lie.
        endpoint: Gateway and key as plain data.
        home: Folder for what the libraries write.
    """

    def __init__(
        self,
        agent_id: str,
        spec: dict[str, Any],
        database_url: str,
        endpoint: dict[str, str],
        home: str,
    ) -> None:
        _prepare_process(Path(home))
        self._runtime = AgentRuntime(
            agent_id,
            AgentSpec.model_validate(spec),
            AgentStore(Database(database_url)),
            Endpoint(**endpoint),
        )
        self._serving = asyncio.get_running_loop().create_task(self._runtime.serve())
        self._serving.add_done_callback(_end_process)

    async def wake(self, endpoint: dict[str, str]) -> None:
        """Look at the queue now, and use this key from now on."""
        await self._runtime.wake(Endpoint(**endpoint))

    async def describe(self) -> dict[str, Any]:
        """Process id and the tasks under way."""
        return {"pid": os.getpid(), "running": self._runtime.running}


class RayHosts:
    """Keeps agents as detached, named actors of the connected cluster.

    Args:
        settings: Database and state folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._database_url = settings.database_url()
        self._home = settings.paths.state.absolute() / "agents"

    async def wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        """See that the agent runs, uses this key, and looks at its queue now."""
        await asyncio.to_thread(self._wake, agent, endpoint)

    def _wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        plain = asdict(endpoint)
        actor = (
            ray.remote(AgentActor)
            .options(
                name=agent.id,
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
            )
            .remote(agent.id, agent.spec, self._database_url, plain, str(self._home))
        )
        actor.wake.remote(plain)


def describe_actor(agent_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """What the agent's actor says of itself.

    Raises:
        ValueError: The agent has no actor.
    """
    actor = ray.get_actor(agent_id, namespace=NAMESPACE)
    described: dict[str, Any] = ray.get(actor.describe.remote(), timeout=timeout_s)
    return described


def stop_actor(agent_id: str) -> bool:
    """End the agent's actor for good; False when it has none. Its tasks stay in the database."""
    try:
        actor = ray.get_actor(agent_id, namespace=NAMESPACE)
    except ValueError:
        return False
    ray.kill(actor, no_restart=True)
    return True


def _prepare_process(home: Path) -> None:
    silence_libraries()
    home.mkdir(parents=True, exist_ok=True)
    # CrewAI keeps files in the home folder and in its own storage folder.
    os.environ["HOME"] = str(home)
    os.environ["CREWAI_STORAGE_DIR"] = str(home / "crewai")


def _end_process(serving: asyncio.Task[None]) -> None:
    # Without its loop the actor is of no use: let Ray start a new one.
    if not serving.cancelled():
        os._exit(1)
