"""The app at ``/agents``: create agents, give them tasks, follow, cancel and approve.

An agent acts with a short-lived key that is delegated from its caller's, with the scopes that the
agent needs and no more. A task's events are a stream of server-sent events that a client can
resume.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from sunloom.agents.api import (
    AgentCreated,
    AgentDeleted,
    AgentList,
    AgentStatus,
    Decision,
    TaskAccepted,
    TaskRequest,
    TaskView,
    accepted_view,
    agent_view,
    created_view,
    status_view,
    task_view,
)
from sunloom.agents.approval import ApprovalDecision, decide
from sunloom.agents.gateway_client import Endpoint
from sunloom.agents.runtime import Hosts
from sunloom.agents.store import (
    FINAL,
    AgentRow,
    AgentStore,
    TaskRow,
    TaskStatus,
    TenantLimits,
)
from sunloom.agents.tools.toolbox import bind_tools, needed_scopes
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.caching import TtlCache
from sunloom.core.database import open_database
from sunloom.core.telemetry import get_logger
from sunloom.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    SunloomError,
)
from sunloom.serving.apps.event_streams import (
    After,
    EventStreams,
    LastEventId,
    resume_after,
)
from sunloom.serving.apps.fastapi_app import build_fastapi
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.apps.task_askers import TaskAskers
from sunloom.serving.auth.api_keys import KeyRecord, delegate, revoke_delegated
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.middleware import caller

_CACHED_KEYS = 10_000
# Rarely: whoever follows a task wakes its agent as well.
_SWEEP_S = 15.0
_SWEPT_TASKS = 200
_MODEL_CHECK = timedelta(seconds=5)
_log = get_logger("serving.agents")
_EXAMPLES: dict[str, Example] = {
    "retail": {
        "summary": "An agent with two tools",
        "value": {
            "name": "retail",
            "engine": "crewai",
            "model": "retail-agent",
            "role": "Retail analyst",
            "goal": "Answer questions about customers with the tools",
            "backstory": "You look up customers with the tools and answer in one sentence.",
            "tools": [
                {"name": "get_features", "options": {"decimals": 2}},
                {"name": "predict", "options": {"decimals": 2}, "approval": False},
            ],
        },
    }
}
"""Body of ``POST /agents/create`` in the OpenAPI document."""


def build_agents_app(settings: Settings, hosts: Hosts | None = None) -> FastAPI:
    """The agents' FastAPI app; the middleware goes in front of it.

    Args:
        settings: Database, gateway address and key defaults.
        hosts: Runs the agents; actors of the connected Ray cluster by default.
    """
    app = build_fastapi("Sunloom agents", "/agents")
    service = AgentService(settings, hosts)
    router = APIRouter(prefix="/agents", tags=["agents"])
    _add_agent_routes(router, service)
    _add_task_routes(router, service)
    app.include_router(router)

    @asynccontextmanager
    async def keep_awake(_app: FastAPI) -> AsyncIterator[None]:
        waking = asyncio.create_task(service.keep_awake())
        try:
            yield
        finally:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)

    app.router.lifespan_context = keep_awake
    return app


class AgentService:
    """The operations of the routes, without HTTP.

    Args:
        settings: Database, gateway address and key defaults.
        hosts: Runs the agents; actors of the connected Ray cluster by default.
    """

    def __init__(self, settings: Settings, hosts: Hosts | None = None) -> None:
        database = open_database(settings)
        self.store = AgentStore(database)
        self.requests = IdempotentRequests(database)
        config = settings.serving.agents
        shared = KeyHolds(database, "streams") if config.replicas > 1 else None
        self.streams = EventStreams(self.store, config.event_streams, shared)
        self._askers = TaskAskers(settings)
        self._approval_by_another = config.approval_by_another
        self._limits = TenantLimits(
            agents=config.most_agents, working=config.most_working, tasks=config.most_tasks
        )
        self._keys = AgentKeys(settings)
        if hosts is None:
            from sunloom.agents.actors import RayHosts

            hosts = RayHosts(settings)
        self._hosts = hosts

    async def create(self, spec: AgentSpec, key: KeyRecord) -> AgentRow:
        """Record the agent; its first task starts it.

        Raises:
            NotFoundError: It names an unknown tool or model.
            PermissionDeniedError: The key lacks a scope that the agent needs.
            ConflictError: The tenant has as many as it may have.
        """
        # Unknown tools and options are the caller's errors, and must not appear in the actor only.
        await self._keys.check(spec, key)
        await self._keys.check_model(spec, key)
        return await asyncio.to_thread(self.store.create_agent, spec, key.tenant, self._limits)

    async def delete(self, agent_id: str, key: KeyRecord) -> AgentDeleted:
        """Delete an agent: its tasks end as cancelled, its process and its keys with it.

        Raises:
            NotFoundError: The tenant has no such agent, or not any more.
        """
        agent = await self.agent(agent_id, key)
        # First the record: a process that starts anew in between finds nothing to do.
        cancelled = await asyncio.to_thread(self.store.delete_agent, agent.id)
        await self._hosts.end(agent.id)
        await self._keys.revoke(agent)
        return AgentDeleted(agent_id=agent.id, cancelled_tasks=cancelled)

    async def add_task(self, agent_id: str, text: str, key: KeyRecord) -> TaskRow:
        """Queue a task and wake its agent.

        Raises:
            RateLimitError: The tenant has as many unfinished tasks or working agents as it may.
        """
        agent = await self.agent(agent_id, key)
        # Again: the caller's key need not be the one that created the agent.
        await self._keys.check(AgentSpec.from_stored(agent.spec), key)
        row = await asyncio.to_thread(self.store.add_task, agent_id, text, self._limits)
        await asyncio.to_thread(self._askers.record, row.id, key)
        await self._wake(agent, row.id, key)
        return row

    async def cancel(self, agent_id: str, task_id: str, key: KeyRecord) -> TaskRow:
        """Cancel a task; one that is running stops within a second."""
        await self.task(agent_id, task_id, key)
        row = await asyncio.to_thread(self.store.request_cancel, task_id)
        # Its actor ends a running task, and may itself have ended with its cluster.
        await self.revive(row, key)
        return row

    async def approve(
        self, agent_id: str, task_id: str, decision: Decision, key: KeyRecord
    ) -> TaskRow:
        """Record a decision on a call that waits.

        Raises:
            PermissionDeniedError: The key lacks what the call needs, or asked for the task itself
                where another key must approve.
        """
        agent = await self.agent(agent_id, key)
        task = await self.task(agent_id, task_id, key)
        await asyncio.to_thread(self._check_approver, agent, task, decision, key)
        approval = ApprovalDecision(decision.approved, decision.note)
        await asyncio.to_thread(decide, self.store, task_id, approval, decision.call)
        return await self.task(agent_id, task_id, key)

    async def agent(self, agent_id: str, key: KeyRecord) -> AgentRow:
        """The tenant's agent."""
        return await asyncio.to_thread(self.store.agent, agent_id, key.tenant)

    async def task(self, agent_id: str, task_id: str, key: KeyRecord) -> TaskRow:
        """The tenant's task, also of an agent that was deleted."""
        # The agent first: a task has no tenant of its own, and another tenant's must not be found.
        await asyncio.to_thread(self.store.agent, agent_id, key.tenant, deleted=True)
        return await asyncio.to_thread(self.store.task, task_id, agent_id)

    async def revive(self, task: TaskRow, key: KeyRecord) -> None:
        """Wake the agent of an unfinished task: its cluster may have been restarted meanwhile.

        It goes on with its asker's key: who reads a task lends the agent no rights.
        """
        if task.status in FINAL:
            return
        asker = await asyncio.to_thread(self._askers.key_of, task.id) or key
        try:
            await self._wake(await self.agent(task.agent_id, key), task.id, asker)
        except AuthenticationError as error:
            # The task stays as it is; to read it needs no key of its asker.
            _log.info("task %s is not woken: %s", task.id, error.message)

    def _check_approver(
        self, agent: AgentRow, task: TaskRow, decision: Decision, key: KeyRecord
    ) -> None:
        asker = self._askers.key_of(task.id)
        if self._approval_by_another and asker is not None and asker.account == key.account:
            raise PermissionDeniedError(
                f"Key {key.id} asked for task {task.id} and cannot approve its calls.",
                "Approve with another person's key (serving.agents.approval_by_another).",
            )
        waiting = {
            row.request["tool"]
            for row in self.store.journal(task.id)
            if row.kind == "approval" and row.outcome is None and decision.call in (None, row.seq)
        }
        tools = bind_tools(AgentSpec.from_stored(agent.spec).tools)
        scopes = needed_scopes([tool for name, tool in tools.items() if name in waiting])
        missing = sorted(scope for scope in scopes if not key.may(scope))
        if missing:
            raise PermissionDeniedError(
                f"Key {key.id} cannot approve a call that needs {', '.join(missing)}.",
                "Approve with a key that could make the call itself.",
            )

    async def keep_awake(self) -> None:
        """Bring unfinished tasks their askers' keys for ever: after a crash they have none."""
        while True:
            try:
                for task in await asyncio.to_thread(self.store.unfinished_tasks, _SWEPT_TASKS):
                    await self._bring_key(task)
            # Whatever it is: the next round may find it mended.
            except Exception as error:  # noqa: BLE001
                _log.warning("unfinished tasks could not be woken: %s", error)
            await asyncio.sleep(_SWEEP_S)

    async def _bring_key(self, task: TaskRow) -> None:
        asker = await asyncio.to_thread(self._askers.key_of, task.id)
        if asker is None:
            return
        try:
            agent = await asyncio.to_thread(self.store.agent, task.agent_id)
            await self._wake(agent, task.id, asker)
        except AuthenticationError as error:
            # One that runs fails by itself, at its next call.
            if task.status == TaskStatus.QUEUED:
                await asyncio.to_thread(self._fail, task, error)
        except SunloomError as error:
            _log.info("task %s is not woken: %s", task.id, error.message)

    def _fail(self, task: TaskRow, error: SunloomError) -> None:
        data = {"code": error.code, "message": error.message, "hint": error.hint}
        # Another replica may have been first.
        with suppress(ConflictError):
            self.store.transition(task.id, TaskStatus.FAILED, "failed", {"error": data}, error=data)

    async def _wake(self, agent: AgentRow, task_id: str, key: KeyRecord) -> None:
        endpoint = await self._keys.endpoint(agent, key)
        await self._hosts.wake(agent, task_id, endpoint)


class AgentKeys:
    """Delegates keys to agents: one per agent and caller, renewed after half of its life.

    Args:
        settings: Address of the gateway and lifetime of delegated keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifetime = timedelta(seconds=settings.serving.keys.delegated_ttl_s)
        # Half of its life remains, so that a task does not start with a key about to expire.
        cached_s = self._lifetime.total_seconds() / 2
        self._secrets = TtlCache[tuple[str, str], str](cached_s, _CACHED_KEYS)

    async def check(self, spec: AgentSpec, key: KeyRecord) -> None:
        """Reject a caller whose key lacks a scope that the agent needs.

        Raises:
            NotFoundError: The agent names an unknown tool.
            PermissionDeniedError: Names the missing scopes.
        """
        # In a thread: binding a tool may import its plugin.
        scopes = await asyncio.to_thread(_needed_scopes, spec)
        missing = sorted(scope for scope in scopes if not key.may(scope))
        if missing:
            raise PermissionDeniedError(
                f"Key {key.id} lacks what agent {spec.name!r} needs: {', '.join(missing)}.",
                "Use a key with these scopes: the agent acts with the rights of its caller.",
            )

    async def check_model(self, spec: AgentSpec, key: KeyRecord) -> None:
        """Reject an agent whose model the gateway does not serve to this caller.

        Raises:
            NotFoundError: There is no such model, as the language app says it.
        """
        secret, _ = await asyncio.to_thread(
            delegate, self._settings, key, ["llm"], expires=_MODEL_CHECK, purpose="model check"
        )
        url = f"{self._settings.serving.local_url}/v1/models/{quote(spec.model, safe='@')}"
        headers = {"Authorization": f"Bearer {secret}"}
        try:
            async with httpx.AsyncClient(timeout=_MODEL_CHECK.total_seconds()) as http:
                response = await http.get(url, headers=headers)
            error = response.json()["error"] if response.status_code == 404 else {}
        # Whether it exists cannot be known now: the first model call will tell.
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return
        if error.get("param") == "model":
            raise NotFoundError(str(error["message"]), str(error.get("hint") or ""), "model")

    async def endpoint(self, agent: AgentRow, key: KeyRecord) -> Endpoint:
        """The gateway with a key for this agent on behalf of this caller."""
        secret = await self._secrets.get_or_await(
            (agent.id, key.id), lambda: asyncio.to_thread(self._delegate, agent, key)
        )
        return Endpoint(self._settings.serving.local_url, secret)

    async def revoke(self, agent: AgentRow) -> None:
        """Revoke all keys that were delegated to an agent."""
        await asyncio.to_thread(revoke_delegated, self._settings, _purpose_of(agent))

    def _delegate(self, agent: AgentRow, key: KeyRecord) -> str:
        scopes = sorted(_needed_scopes(AgentSpec.from_stored(agent.spec)))
        secret, _ = delegate(
            self._settings, key, scopes, expires=self._lifetime, purpose=_purpose_of(agent)
        )
        return secret


def _purpose_of(agent: AgentRow) -> str:
    return f"agent {agent.id}"


def _needed_scopes(spec: AgentSpec) -> frozenset[str]:
    # Whatever its tools, an agent reaches its model through the gateway.
    return needed_scopes(bind_tools(spec.tools).values()) | {"llm"}


async def _key_of(request: Request) -> KeyRecord:
    key = caller(request.scope).key
    assert key is not None, "the middleware admits no request to /agents without a key"
    return key


CallerKey = Annotated[KeyRecord, Depends(_key_of)]
"""Parameter of a route: the record of the caller's key."""


def _add_agent_routes(router: APIRouter, service: AgentService) -> None:
    @router.get("")
    async def list_agents(key: CallerKey) -> AgentList:
        """Agents of the key's tenant."""
        rows = await asyncio.to_thread(service.store.agents, key.tenant)
        return AgentList(agents=[agent_view(row) for row in rows])

    @router.post("/create", status_code=201)
    async def create_agent(
        request: Request,
        key: CallerKey,
        spec: Annotated[AgentSpec, Body(openapi_examples=_EXAMPLES)],
        idempotency_key: IdempotencyKey = None,
    ) -> AgentCreated:
        """Create an agent; its first task starts it."""

        # Plain JSON, as it is stored for requests that repeat the idempotency key.
        async def produce() -> dict[str, Any]:
            return created_view(await service.create(spec, key)).model_dump(mode="json")

        body = spec.model_dump(mode="json")
        answer = await service.requests.run_once(request, idempotency_key, body, produce)
        return AgentCreated.model_validate(answer)

    @router.delete("/{agent_id}")
    async def delete_agent(key: CallerKey, agent_id: str) -> AgentDeleted:
        """Delete an agent and cancel its unfinished tasks; what its tasks did stays readable."""
        return await service.delete(agent_id, key)

    @router.get("/{agent_id}/status")
    async def agent_status(
        key: CallerKey, agent_id: str, limit: Annotated[int, Query(ge=1, le=500)] = 20
    ) -> AgentStatus:
        """The agent, its number of tasks by status, and the latest of them."""
        agent = await service.agent(agent_id, key)
        counts = await asyncio.to_thread(service.store.counts, agent_id)
        latest = await asyncio.to_thread(service.store.tasks, agent_id, limit)
        return status_view(agent, counts, latest)


def _add_task_routes(router: APIRouter, service: AgentService) -> None:
    @router.post("/{agent_id}/task", status_code=202)
    async def post_task(
        request: Request,
        key: CallerKey,
        agent_id: str,
        body: TaskRequest,
        idempotency_key: IdempotencyKey = None,
    ) -> TaskAccepted:
        """Queue a task."""

        async def produce() -> dict[str, Any]:
            row = await service.add_task(agent_id, body.task, key)
            return accepted_view(row).model_dump(mode="json")

        sent = body.model_dump()
        answer = await service.requests.run_once(request, idempotency_key, sent, produce)
        return TaskAccepted.model_validate(answer)

    @router.get("/{agent_id}/tasks/{task_id}")
    async def get_task(key: CallerKey, agent_id: str, task_id: str) -> TaskView:
        """The state of a task."""
        task = await service.task(agent_id, task_id, key)
        await service.revive(task, key)
        return task_view(task)

    @router.get("/{agent_id}/tasks/{task_id}/events", response_class=StreamingResponse)
    async def get_events(
        key: CallerKey,
        agent_id: str,
        task_id: str,
        last_event_id: LastEventId = None,
        after: After = 0,
    ) -> StreamingResponse:
        """The task's events as they happen (server-sent events); ends when the task ends."""
        task = await service.task(agent_id, task_id, key)
        await service.revive(task, key)
        start = resume_after(last_event_id, after)
        keep_awake = partial(service.revive, task, key)
        return service.streams.response(key, task_id, start, keep_awake)

    @router.post("/{agent_id}/tasks/{task_id}/cancel", status_code=202)
    async def cancel_task(key: CallerKey, agent_id: str, task_id: str) -> TaskView:
        """Stop a task; does nothing to one that has ended."""
        return task_view(await service.cancel(agent_id, task_id, key))

    @router.post("/{agent_id}/tasks/{task_id}/approve")
    async def approve_call(key: CallerKey, agent_id: str, task_id: str, body: Decision) -> TaskView:
        """Approve or deny the call that the task waits with."""
        return task_view(await service.approve(agent_id, task_id, body, key))
