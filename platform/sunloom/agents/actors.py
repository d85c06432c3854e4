"""Agents as Ray actors: one per agent, restarted by Ray, built from its specification alone."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import AgentRuntime
from sunloom.agents.store import AgentRow, AgentStore
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database
from sunloom.core.telemetry import get_logger, silence_libraries

NAMESPACE = "sunloom-agents"
_WAKE_ATTEMPTS = 5
_WAKE_PAUSE_S = 0.3
_log = get_logger("agents.actors")


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
    again, and calls that had finished are replayed from the journal. It ends after a time without
    tasks, and the next task starts it again.

    Args:
        agent_id: The agent.
        spec: Its specification as plain data.
        database_url: Database of its queue, events and journal.
        base_url: Root of the gateway.
        home: Folder for the files that the libraries write.
        idle_s: How long the process waits for tasks before it ends, seconds.
    """

    def __init__(
        self,
        agent_id: str,
        spec: dict[str, Any],
        database_url: str,
        base_url: str,
        home: str,
        idle_s: float,
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
            # No key of its own: each task has its asker's.
            Endpoint(base_url, ""),
            idle_s,
        )
        # A reference is kept: the event loop alone holds tasks weakly.
        self._serving = asyncio.get_running_loop().create_task(self._runtime.serve())
        self._serving.add_done_callback(_end_process)

    async def wake(self, task_id: str, endpoint: dict[str, str]) -> None:
        """Check the queue now, and use this key for a task from now on."""
        await self._runtime.wake(task_id, Endpoint(**endpoint))

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
        self._idle_s = settings.serving.agents.idle_s
        self._waking: set[asyncio.Task[None]] = set()
        self._ended: set[str] = set()

    async def wake(self, agent: AgentRow, task_id: str, endpoint: Endpoint) -> None:
        """Start the agent if necessary, give it the key of a task, and let it check its queue."""
        # Not awaited: a new actor imports its engine for seconds, and its queue is in the database.
        waking = asyncio.create_task(self._wake_surely(agent, task_id, endpoint))
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def end(self, agent_id: str) -> None:
        """End the agent's process at once and for good; nothing where it has none."""
        self._ended.add(agent_id)
        await asyncio.to_thread(_kill_actor, agent_id)

    async def _wake_surely(self, agent: AgentRow, task_id: str, endpoint: Endpoint) -> None:
        for attempt in range(_WAKE_ATTEMPTS):
            if agent.id in self._ended:
                return
            try:
                actor = await asyncio.to_thread(self._start, agent, endpoint)
                await actor.wake.remote(task_id, asdict(endpoint))
            # A process that is about to end after a time without tasks, or has just ended.
            except RayError as error:
                _log.info("agent %s is woken again: %s", agent.id, type(error).__name__)
                await asyncio.sleep(_WAKE_PAUSE_S * (attempt + 1))
            else:
                return

    def _start(self, agent: AgentRow, endpoint: Endpoint) -> Any:
        return (
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
                base_url=endpoint.base_url,
                home=str(self._home),
                idle_s=self._idle_s,
            )
        )


def _kill_actor(agent_id: str) -> None:
    try:
        actor = ray.get_actor(agent_id, namespace=NAMESPACE)
    # There is none, or none any more.
    except ValueError:
        return
    ray.kill(actor, no_restart=True)


def _end_process(serving: asyncio.Task[None]) -> None:
    if serving.cancelled():
        return
    if serving.exception() is None:
        # After a time without tasks: Ray must not start it again, its name is free for the next.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
    else:
        # An actor without its loop does nothing more: Ray starts a new process.
        os._exit(1)
