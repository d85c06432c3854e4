"""HTTP client of the agents' routes: create an agent, post tasks, follow their events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from sunloom.agents.api_schemas import (
    AgentCreated,
    AgentList,
    AgentStatus,
    AgentView,
    TaskAccepted,
    TaskEvent,
    TaskView,
)
from sunloom.config.agents import AgentSpec, AgentsRecipe, EngineName
from sunloom.errors import AgentError, ServingError, UsageError

OnEvent = Callable[[str, TaskEvent], None]
"""Called with the task's id and each of its events."""
Response = TypeVar("Response", bound=BaseModel)
_FINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class TaskResult:
    """The outcome of a task.

    Attributes:
        task_id: The task.
        status: ``succeeded``, ``failed`` or ``cancelled``.
        answer: The final answer, if there is one.
        error: Code, message and hint, if it failed.
        usage: Tokens used.
        events: The task's events in order.
    """

    task_id: str
    status: str
    answer: str | None
    error: dict[str, Any] | None
    usage: dict[str, int]
    events: list[TaskEvent] = field(default_factory=list)


class AgentsClient:
    """The agents' routes of a gateway.

    Args:
        base_url: Root of the gateway.
        api_key: A key with the scope ``agents`` and those that the agent's tools need.
        timeout_s: Longest wait for one response, seconds.
    """

    def __init__(self, base_url: str, api_key: str, timeout_s: float = 60.0) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_s,
        )

    def __enter__(self) -> AgentsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, spec: AgentSpec, key: str | None = None) -> str:
        """Create an agent; returns its id."""
        body = spec.model_dump(mode="json")
        return self._post("/agents/create", body, AgentCreated, key).agent_id

    def agents(self) -> list[AgentView]:
        """The tenant's agents."""
        return self._get("/agents", AgentList).agents

    def status(self, agent_id: str) -> AgentStatus:
        """The agent and its latest tasks."""
        return self._get(f"/agents/{agent_id}/status", AgentStatus)

    def post_task(self, agent_id: str, task: str, key: str | None = None) -> str:
        """Give the agent a task; returns its id."""
        return self._post(f"/agents/{agent_id}/task", {"task": task}, TaskAccepted, key).task_id

    def task(self, agent_id: str, task_id: str) -> TaskView:
        """The state of a task."""
        return self._get(f"/agents/{agent_id}/tasks/{task_id}", TaskView)

    def cancel(self, agent_id: str, task_id: str) -> TaskView:
        """Stop a task."""
        return self._post(f"/agents/{agent_id}/tasks/{task_id}/cancel", {}, TaskView)

    def approve(
        self, agent_id: str, task_id: str, approved: bool = True, note: str = ""
    ) -> TaskView:
        """Decide on the call that a task waits with."""
        body = {"approved": approved, "note": note}
        return self._post(f"/agents/{agent_id}/tasks/{task_id}/approve", body, TaskView)

    def events(self, agent_id: str, task_id: str, after: int = 0) -> Iterator[TaskEvent]:
        """Events numbered above ``after``, over one connection."""
        url = f"/agents/{agent_id}/tasks/{task_id}/events"
        headers = {"Last-Event-ID": str(after)}
        with self._http.stream("GET", url, headers=headers) as response:
            if response.status_code >= 400:
                # The body of a streamed response is not there until it is read.
                response.read()
                _check_status(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield TaskEvent.model_validate_json(line.removeprefix("data:"))

    def follow(
        self, agent_id: str, task_id: str, timeout_s: float, on_event: OnEvent | None = None
    ) -> TaskResult:
        """Read a task's events to its end, and reconnect when the stream breaks.

        Raises:
            AgentError: The task did not end in time.
        """
        events: list[TaskEvent] = []
        deadline = time.monotonic() + timeout_s
        while not events or events[-1].type not in _FINAL:
            if time.monotonic() > deadline:
                raise AgentError(f"Task {task_id} did not end within {timeout_s:g} s.")
            try:
                # Numbered from 1 without gaps: the count is also the last number.
                for event in self.events(agent_id, task_id, after=len(events)):
                    events.append(event)
                    if on_event is not None:
                        on_event(task_id, event)
                    if time.monotonic() > deadline:
                        break
            except (httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout):
                # Events are numbered without gaps, so the next stream starts after the last one.
                time.sleep(0.2)
        task = self.task(agent_id, task_id)
        return TaskResult(
            task_id=task_id,
            status=task.status.value,
            answer=task.answer,
            error=task.error,
            usage=task.usage,
            events=events,
        )

    def _get(self, path: str, model: type[Response]) -> Response:
        return model.model_validate_json(_check_status(self._http.get(path)).content)

    def _post(
        self, path: str, body: Mapping[str, Any], model: type[Response], key: str | None = None
    ) -> Response:
        headers = {"Idempotency-Key": key} if key else {}
        response = self._http.post(path, json=body, headers=headers)
        return model.model_validate_json(_check_status(response).content)


def run_tasks(
    base_url: str,
    api_key: str,
    engine: EngineName,
    tasks: Sequence[str],
    *,
    spec: AgentSpec,
    timeout_s: float = 300.0,
    on_event: OnEvent | None = None,
) -> list[TaskResult]:
    """Create an agent over HTTP, post the tasks, follow them, and return their outcomes in order.

    Args:
        base_url: Root of the gateway.
        api_key: Key with the scopes ``agents``, ``llm`` and those of the tools.
        engine: ``crewai`` or ``semantic_kernel``; replaces the specification's.
        tasks: Task texts.
        spec: The agent.
        timeout_s: Longest wait for all of them, seconds.
        on_event: Called with task id and event as they come.

    Raises:
        ServingError: The gateway refused a request; the message is its own.
        AgentError: The tasks did not end in time.
    """
    deadline = time.monotonic() + timeout_s
    with AgentsClient(base_url, api_key) as client:
        agent_id = client.create(spec.model_copy(update={"engine": engine}))
        # All tasks first: the agent works on several of them at a time.
        ids = [client.post_task(agent_id, task) for task in tasks]
        return [
            # At least a second, or a task that has already ended could not be read past the
            # deadline.
            client.follow(agent_id, task_id, max(1.0, deadline - time.monotonic()), on_event)
            for task_id in ids
        ]


def run_recipe(recipe: AgentsRecipe, on_event: OnEvent | None = None) -> list[TaskResult]:
    """Give the recipe's tasks to its first agent through the gateway.

    Raises:
        UsageError: The recipe has no tasks, or there is no key.
    """
    if not recipe.tasks:
        raise UsageError("The recipe has no tasks.", "List them under `tasks`.", "tasks")
    spec = recipe.spec()
    return run_tasks(
        recipe.gateway.url or recipe.serving.url,
        _api_key(recipe),
        spec.engine,
        recipe.tasks,
        spec=spec,
        timeout_s=recipe.tasks_timeout_s,
        on_event=on_event,
    )


def _api_key(recipe: AgentsRecipe) -> str:
    configured = recipe.gateway.api_key
    key = configured.get_secret_value() if configured else os.environ.get("SUNLOOM_API_KEY", "")
    if not key:
        raise UsageError(
            "There is no key for the gateway.",
            "Set SUNLOOM_API_KEY (create a key with: sunloom keys create --scopes "
            "agents,llm,features,models).",
            "gateway.api_key",
        )
    return key


def _check_status(response: httpx.Response) -> httpx.Response:
    """The response, unless it is an error."""
    if response.status_code < 400:
        return response
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"Status {response.status_code}: {response.text[:200]}"}
    raise ServingError(str(error["message"]), str(error.get("hint") or ""), error.get("param"))
