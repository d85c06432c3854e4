"""Agents as Ray actors: one per agent, restarted by Ray, built from its specification alone."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime
from sunloom.agents.store import AgentRow, AgentStore
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database
from sunloom.core.telemetry import silence_libraries

NAMESPACE = "sunloom-agents"


@dataclass(frozen=True)
class ActorStatus:
    """Status of an agent's actor.

    Attributes:
        pid: Process id.
        running: Ids of the running tasks.
    """

    pid: int
    running: list[str]


class AgentActor:
    """An agent in a process of its own.

    After a kill Ray builds it again with the same arguments; it then queues its unfinished tasks
    again, and calls that had finished are replayed from the journal.

    Args:
        agent_id: The agent.
        spec: Its specification as plain data.
        database_url: Database of its queue, events and journal.
        endpoint: Gateway and key as plain data.
        home: Folder for the files that the libraries write.
    """

    def __init__(
        self,
        agent_id: str,
        spec: dict[str, Any],
        database_url: str,
        endpoint: dict[str, str],
        home: str,
    ) -> None:
        silence_libraries()
        Path(home).mkdir(parents=True, exist_ok=True)
        # CrewAI keeps files in the home folder and in its own storage folder.
        os.environ["HOME"] = home
        os.environ["CREWAI_STORAGE_DIR"] = str(Path(home) / "crewai")
        self._runtime = AgentRuntime(
            agent_id,
            AgentSpec.from_stored(spec),
            AgentStore(Database(database_url)),
            Endpoint(**endpoint),
        )
        # A reference is kept: the event loop alone holds tasks weakly.
        self._serving = asyncio.get_running_loop().create_task(self._runtime.serve())
        self._serving.add_done_callback(_end_process)

    async def wake(self, endpoint: dict[str, str]) -> None:
        """Check the queue now, and use this key from now on."""
        await self._runtime.wake(Endpoint(**endpoint))

    async def status(self) -> ActorStatus:
        """The actor's process and its running tasks."""
        return ActorStatus(os.getpid(), self._runtime.running_tasks)


class RayHosts:
    """Runs agents as detached, named actors of the connected cluster.

    Args:
        settings: Database and state folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._database_url = settings.database_url()
        self._home = settings.paths.state.absolute() / "agents"

    async def wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        """Start the agent if necessary, give it this key, and let it check its queue now."""
        await asyncio.to_thread(self._wake, agent, endpoint)

    async def end(self, agent_id: str) -> None:
        """End the agent's process at once; nothing where it has none."""
        await asyncio.to_thread(_kill_actor, agent_id)

    def _wake(self, agent: AgentRow, endpoint: Endpoint) -> None:
        endpoint_data = asdict(endpoint)
        actor = (
            ray.remote(AgentActor)
            .options(
                name=agent.id,
                namespace=NAMESPACE,
                # Replicas may wake the same agent at once: one of them creates the actor.
                get_if_exists=True,
                # The actor must outlive the replica that created it.
                lifetime="detached",
                # It waits for the gateway nearly all the time and takes no CPU from training.
                num_cpus=0,
                # Attempts are limited for each task, so the actor itself may always restart.
                max_restarts=-1,
            )
            .remote(
                agent_id=agent.id,
                spec=agent.spec,
                database_url=self._database_url,
                endpoint=endpoint_data,
                home=str(self._home),
            )
        )
        # Not awaited: a new actor imports its engine for seconds, and its queue is in the database.
        actor.wake.remote(endpoint_data)


def _kill_actor(agent_id: str) -> None:
    try:
        actor = ray.get_actor(agent_id, namespace=NAMESPACE)
    # There is none, or none any more.
    except ValueError:
        return
    ray.kill(actor, no_restart=True)


def _end_process(serving: asyncio.Task[None]) -> None:
    # An actor without its loop does nothing more: ending the process lets Ray start a new one.
    if not serving.cancelled():
        os._exit(1)
