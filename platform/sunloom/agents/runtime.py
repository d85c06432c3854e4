"""Runtime of one agent: claims tasks from the queue, runs them, and records their outcomes.

Plain asyncio, without a cluster. ``actors`` runs it inside a Ray actor.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from sunloom.agents.approval import ApprovalHook
from sunloom.agents.engines import build_engine
from sunloom.agents.gateway_client import Endpoint, GatewayClient, open_connections
from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentRow, AgentStore, TaskRow, TaskStatus
from sunloom.agents.task_scope import TaskScope
from sunloom.agents.tools.result_encoder import describe_error
from sunloom.agents.tools.toolbox import Toolbox, bind_tools
from sunloom.config.agents import AgentSpec
from sunloom.core.telemetry import get_logger
from sunloom.errors import AgentError, ConflictError, SunloomError

# While tasks run, for requests to cancel them; else only where one key is that of all tasks.
_POLL_S = 1.0
_log = get_logger(__name__)


class Hosts(Protocol):
    """Runs one runtime per agent. The queue is in the database, the keys of its tasks are not."""

    async def wake(self, agent: AgentRow, task_id: str, endpoint: Endpoint) -> None:
        """Start the agent if necessary, give it the key of a task, and let it check its queue now.

        A task that has a key already gets this one for its next calls.
        """
        ...

    async def end(self, agent_id: str) -> None:
        """End the agent at once, with what it does; nothing where it does not run."""
        ...


class AgentRuntime:
    """Runs the tasks of one agent, each with the key that was delegated for it.

    Args:
        agent_id: The agent.
        spec: Its specification.
        store: Queue, events and journal.
        endpoint: The gateway. If it has a key, tasks without one of their own use it.
        idle_s: How long the agent waits for tasks before it ends, seconds; None waits for ever.

    Raises:
        NotFoundError: The specification names a tool that does not exist.
    """

    def __init__(
        self,
        agent_id: str,
        spec: AgentSpec,
        store: AgentStore,
        endpoint: Endpoint,
        idle_s: float | None = None,
    ) -> None:
        self._agent_id = agent_id
        self._spec = spec
        self._store = store
        self._endpoint = endpoint
        self._idle_s = idle_s
        self._tools = bind_tools(spec.tools)
        self._engine = build_engine(spec, endpoint.model_url)
        self._connections = open_connections(spec.timeout_s)
        self._clients: dict[str, GatewayClient] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._was_woken = False
        self._is_ending = False

    async def serve(self) -> None:
        """Work until cancelled or idle for long; first queue an earlier process's tasks again."""
        # In a thread, as every access to the store: SQLAlchemy blocks.
        await asyncio.to_thread(
            self._store.requeue_unfinished, self._agent_id, self._spec.max_attempts
        )
        try:
            while not self._is_ending:
                await self._work_until_idle()
                await self._wait_for_tasks()
        finally:
            for task in self._running.values():
                task.cancel()
            # Before the connections are closed: the tasks may still use them while they end.
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            await self._connections.aclose()

    async def wake(self, task_id: str | None = None, endpoint: Endpoint | None = None) -> None:
        """Check the queue now; with a task, use this key for it from now on.

        Raises:
            AgentError: The process is about to end: another one must be started.
        """
        if self._is_ending:
            raise AgentError("The agent's process ends after a time without tasks.")
        if task_id is not None and endpoint is not None:
            client = self._clients.get(task_id)
            if client is None:
                self._clients[task_id] = GatewayClient(endpoint, connections=self._connections)
            else:
                await client.renew(endpoint)
        self._wake.set()

    @property
    def running_tasks(self) -> list[str]:
        """Ids of the running tasks."""
        return sorted(self._running)

    async def run_one(self, row: TaskRow) -> None:
        """Run a claimed task to its end and record its outcome."""
        journal = Journal(self._store, row.id)

        async def emit(event: str, data: dict[str, Any]) -> None:
            await asyncio.to_thread(self._store.append_event, row.id, event, data)

        # From its beginning to its end: another asker's key has other rights and another account.
        gateway = self._client_of(row.id)
        limit = asyncio.timeout(self._spec.timeout_s)
        approval = ApprovalHook(self._store, row.id, journal, limit)
        scope = TaskScope(
            text=row.input,
            toolbox=Toolbox(self._tools, gateway, journal, emit, [approval]),
            gateway=gateway,
            journal=journal,
            emit=emit,
            max_steps=self._spec.max_steps,
        )
        try:
            async with limit:
                answer = (await self._engine.run(scope)).strip()
            # A library may turn an error of ours into an answer; the task has failed all the same.
            if scope.failure is not None:
                raise scope.failure
            if not answer:
                raise AgentError("The model's answer is empty.")
        except asyncio.CancelledError:
            # From here on a poll must not cancel it again, and so interrupt the record below.
            self._running.pop(row.id, None)
            current = await asyncio.to_thread(self._store.task, row.id)
            # Without a cancel request the process is shutting down: the next one queues the task
            # again.
            if current.cancel_requested:
                await self._transition(row.id, TaskStatus.CANCELLED, "cancelled", {}, scope)
            raise
        except TimeoutError:
            message = (
                f"The task took longer than {self._spec.timeout_s:g} s (the agent's timeout_s)."
            )
            await self._fail(row.id, scope, AgentError(message))
        # Libraries raise exceptions of any kind, and a failed task must never end the runtime.
        except Exception as error:  # noqa: BLE001
            failure = scope.failure or error
            if not isinstance(failure, SunloomError):
                failure = AgentError(f"The engine failed: {describe_error(error)}")
            await self._fail(row.id, scope, failure)
        else:
            await self._transition(
                row.id, TaskStatus.SUCCEEDED, "succeeded", {"answer": answer}, scope, answer=answer
            )
        finally:
            scope.close()

    async def _work_until_idle(self) -> None:
        """Start tasks, and watch those that run until there are none."""
        while True:
            try:
                await self._start_queued()
                if not self._running:
                    return
                for task_id in await asyncio.to_thread(self._store.cancel_requests, self._agent_id):
                    if (task := self._running.get(task_id)) is not None:
                        task.cancel()
            except SQLAlchemyError as error:
                # Running tasks go on; the queue is polled again after the usual pause.
                _log.warning("the database does not respond, trying again: %s", error)
            await self._pause(_POLL_S)

    async def _wait_for_tasks(self) -> None:
        """Wait for a key of a task, without asking the database; end after a while."""
        if self._endpoint.api_key:
            # Tasks need no key of their own, so nobody need bring one.
            await self._pause(_POLL_S)
            return
        await self._pause(self._idle_s)
        if self._idle_s is not None and not self._was_woken:
            self._is_ending = True

    async def _pause(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._was_woken = self._wake.is_set()
        # Cleared only after the wait: a wake-up during the poll ends the next wait at once.
        self._wake.clear()

    async def _start_queued(self) -> None:
        while len(self._running) < self._spec.concurrency:
            waiting = [task_id for task_id in self._clients if task_id not in self._running]
            among = None if self._endpoint.api_key else waiting
            if among is not None and not among:
                return
            row = await asyncio.to_thread(self._store.claim, self._agent_id, among)
            if row is None:
                # They have ended, or another process has them.
                for task_id in waiting:
                    del self._clients[task_id]
                return
            task = asyncio.create_task(self.run_one(row), name=row.id)
            self._running[row.id] = task
            task.add_done_callback(self._forget)

    def _client_of(self, task_id: str) -> GatewayClient:
        client = self._clients.get(task_id)
        if client is None:
            client = GatewayClient(self._endpoint, connections=self._connections)
            self._clients[task_id] = client
        return client

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task.get_name(), None)
        self._clients.pop(task.get_name(), None)
        # A place is free: the next task need not wait for the poll.
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task %s could not be recorded: %s", task.get_name(), error)

    async def _fail(self, task_id: str, scope: TaskScope, error: SunloomError) -> None:
        data = {"code": error.code, "message": error.message, "hint": error.hint}
        await self._transition(
            task_id, TaskStatus.FAILED, "failed", {"error": data}, scope, error=data
        )

    async def _transition(
        self,
        task_id: str,
        then: TaskStatus,
        event: str,
        data: dict[str, Any],
        scope: TaskScope,
        **fields: Any,
    ) -> None:
        data = {**data, "steps": scope.steps, "usage": scope.usage}
        try:
            await asyncio.to_thread(
                self._store.transition, task_id, then, event, data, usage=scope.usage, **fields
            )
        # Another process has changed the task meanwhile: its record stands.
        except ConflictError as error:
            _log.warning("%s", error)
