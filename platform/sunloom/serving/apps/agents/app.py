"""The app at ``/agents``: create agents, give them tasks, follow, cancel and approve."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Header, Query, Request
from fastapi.openapi.models import Example
from fastapi.responses import StreamingResponse

from sunloom.agents.api_schemas import (
    AgentCreated,
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
from sunloom.agents.hosts import Hosts
from sunloom.agents.store import AgentStore
from sunloom.agents.tables import AgentRow, TaskRow
from sunloom.agents.task_states import TaskStatus, is_final
from sunloom.agents.tools.toolbox import bind_tools
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec
from sunloom.core.database import open_database
from sunloom.serving.apps.agents.delegated_keys import AgentKeys
from sunloom.serving.apps.agents.events import stream_events
from sunloom.serving.apps.fastapi_app import build_fastapi
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.middleware import caller

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
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Number of the last event seen.")
]


def build_agents_app(settings: Settings, hosts: Hosts | None = None) -> FastAPI:
    """The agents' FastAPI app; the middleware goes in front of it.

    Args:
        settings: Database, gateway address and key defaults.
        hosts: Runs the agents; actors of the connected Ray cluster by default.
    """
    app = build_fastapi("Sunloom agents", "/agents")
    app.include_router(_build_router(AgentService(settings, hosts)))
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
        self._keys = AgentKeys(settings)
        self._hosts = hosts or _build_ray_hosts(settings)

    async def create(self, spec: AgentSpec, key: KeyRecord) -> AgentRow:
        """Record the agent and start it.

        Raises:
            NotFoundError: It names an unknown tool.
            PermissionDeniedError: The key lacks a scope that the agent needs.
        """
        # Unknown tools and options are the caller's errors, and must not appear in the actor only.
        await asyncio.to_thread(bind_tools, spec.tools)
        await self._keys.check(spec, key)
        row = await asyncio.to_thread(self.store.create_agent, spec, key.tenant)
        await self._wake(row, key)
        return row

    async def add_task(self, agent_id: str, text: str, key: KeyRecord) -> TaskRow:
        """Queue a task and wake its agent."""
        agent = await self.agent(agent_id, key)
        # Again: the caller's key need not be the one that created the agent.
        await self._keys.check(AgentSpec.model_validate(agent.spec), key)
        row = await asyncio.to_thread(self.store.add_task, agent_id, text)
        await self._wake(agent, key)
        return row

    async def cancel(self, agent_id: str, task_id: str, key: KeyRecord) -> TaskRow:
        """Cancel a task; one that is running stops within a second."""
        agent = await self.agent(agent_id, key)
        await self.task(agent_id, task_id, key)
        row = await asyncio.to_thread(self.store.request_cancel, task_id)
        # Its actor ends a running task, and may itself have ended with its cluster.
        await self._wake(agent, key)
        return row

    async def approve(
        self, agent_id: str, task_id: str, decision: Decision, key: KeyRecord
    ) -> TaskRow:
        """Record a decision on a call that waits."""
        await self.task(agent_id, task_id, key)
        approval = ApprovalDecision(decision.approved, decision.note)
        await asyncio.to_thread(decide, self.store, task_id, approval, decision.call)
        return await self.task(agent_id, task_id, key)

    async def agent(self, agent_id: str, key: KeyRecord) -> AgentRow:
        """The tenant's agent."""
        return await asyncio.to_thread(self.store.agent, agent_id, key.tenant)

    async def task(self, agent_id: str, task_id: str, key: KeyRecord) -> TaskRow:
        """The tenant's task."""
        # The agent first: a task has no tenant of its own, and another tenant's must not be found.
        await self.agent(agent_id, key)
        return await asyncio.to_thread(self.store.task, task_id, agent_id)

    async def revive(self, task: TaskRow, key: KeyRecord) -> None:
        """Wake the agent of an unfinished task: its cluster may have been restarted meanwhile."""
        if not is_final(TaskStatus(task.status)):
            await self._wake(await self.agent(task.agent_id, key), key)

    async def _wake(self, agent: AgentRow, key: KeyRecord) -> None:
        endpoint = await self._keys.endpoint(agent, key)
        await self._hosts.wake(agent, endpoint)


def _build_router(service: AgentService) -> APIRouter:
    router = APIRouter(prefix="/agents", tags=["agents"])
    _add_agent_routes(router, service)
    _add_task_routes(router, service)
    return router


def _add_agent_routes(router: APIRouter, service: AgentService) -> None:
    @router.get("")
    async def list_agents(request: Request) -> AgentList:
        """Agents of the key's tenant."""
        rows = await asyncio.to_thread(service.store.agents, _key_of(request).tenant)
        return AgentList(agents=[agent_view(row) for row in rows])

    @router.post("/create", status_code=201)
    async def create_agent(
        request: Request,
        spec: Annotated[AgentSpec, Body(openapi_examples=_EXAMPLES)],
        idempotency_key: IdempotencyKey = None,
    ) -> AgentCreated:
        """Create an agent; it starts at once and waits for tasks."""
        key = _key_of(request)

        # Plain JSON, as it is stored for requests that repeat the idempotency key.
        async def produce() -> dict[str, Any]:
            return created_view(await service.create(spec, key)).model_dump(mode="json")

        body = spec.model_dump(mode="json")
        return AgentCreated.model_validate(
            await service.requests.run_once(
                key.tenant, request.url.path, idempotency_key, body, produce
            )
        )

    @router.get("/{agent_id}/status")
    async def agent_status(
        request: Request, agent_id: str, limit: Annotated[int, Query(ge=1, le=500)] = 20
    ) -> AgentStatus:
        """The agent, its number of tasks by status, and the latest of them."""
        agent = await service.agent(agent_id, _key_of(request))
        counts = await asyncio.to_thread(service.store.counts, agent_id)
        latest = await asyncio.to_thread(service.store.tasks, agent_id, limit)
        return status_view(agent, counts, latest)


def _add_task_routes(router: APIRouter, service: AgentService) -> None:
    @router.post("/{agent_id}/task", status_code=202)
    async def post_task(
        request: Request,
        agent_id: str,
        body: TaskRequest,
        idempotency_key: IdempotencyKey = None,
    ) -> TaskAccepted:
        """Queue a task."""
        key = _key_of(request)

        async def produce() -> dict[str, Any]:
            row = await service.add_task(agent_id, body.task, key)
            return accepted_view(row).model_dump(mode="json")

        return TaskAccepted.model_validate(
            await service.requests.run_once(
                key.tenant, request.url.path, idempotency_key, body.model_dump(), produce
            )
        )

    @router.get("/{agent_id}/tasks/{task_id}")
    async def get_task(request: Request, agent_id: str, task_id: str) -> TaskView:
        """The state of a task."""
        task = await service.task(agent_id, task_id, _key_of(request))
        await service.revive(task, _key_of(request))
        return task_view(task)

    @router.get("/{agent_id}/tasks/{task_id}/events", response_class=StreamingResponse)
    async def get_events(
        request: Request,
        agent_id: str,
        task_id: str,
        last_event_id: LastEventId = None,
        after: Annotated[int, Query(ge=0, description="As Last-Event-ID, in the URL.")] = 0,
    ) -> StreamingResponse:
        """The task's events as they happen (server-sent events); ends when the task ends."""
        key = _key_of(request)
        task = await service.task(agent_id, task_id, key)
        await service.revive(task, key)
        # A browser resumes with the header; clients that cannot set it use the parameter.
        start = int(last_event_id) if last_event_id and last_event_id.isdecimal() else after
        return StreamingResponse(
            stream_events(service.store, task_id, start, partial(service.revive, task, key)),
            media_type="text/event-stream",
            # nginx would collect events before it sends them.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.post("/{agent_id}/tasks/{task_id}/cancel", status_code=202)
    async def cancel_task(request: Request, agent_id: str, task_id: str) -> TaskView:
        """Stop a task; does nothing to one that has ended."""
        return task_view(await service.cancel(agent_id, task_id, _key_of(request)))

    @router.post("/{agent_id}/tasks/{task_id}/approve")
    async def approve_call(
        request: Request, agent_id: str, task_id: str, body: Decision
    ) -> TaskView:
        """Approve or deny the call that the task waits with."""
        return task_view(await service.approve(agent_id, task_id, body, _key_of(request)))


def _key_of(request: Request) -> KeyRecord:
    key = caller(request.scope).key
    assert key is not None, "the middleware admits no request to /agents without a key"
    return key


def _build_ray_hosts(settings: Settings) -> Hosts:
    from sunloom.agents.actors import RayHosts

    return RayHosts(settings)
