"""HTTP API of agents: bodies of the routes' requests and responses, and the routes' client."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import httpx
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from sunloom.agents.store import FINAL, AgentRow, TaskRow, TaskStatus
from sunloom.config.agents import AgentSpec, AgentsRecipe, EngineName
from sunloom.errors import AgentError, ServingError, UsageError


class _Body(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class TaskRequest(_Body):
    """A task as text."""

    task: str = Field(
        min_length=1,
        max_length=20_000,
        validation_alias=AliasChoices("task", "input"),
        # A blank task would be the model's to make something of.
        pattern=r"\S",
        examples=["Should customer 4711 get a voucher?"],
    )


class Decision(_Body):
    """A person's decision on a call that waits for approval."""

    approved: bool = True
    call: int | None = Field(default=None, ge=1, le=1_000_000, description="Number from the event.")
    note: str = Field(default="", max_length=2000, description="The model reads it on a denial.")


class AgentCreated(BaseModel):
    """A new agent."""

    agent_id: str
    name: str
    engine: str
    model: str
    created_at: datetime


class AgentView(AgentCreated):
    """An agent and its specification."""

    spec: AgentSpec


class TaskAccepted(BaseModel):
    """A queued task and its URLs."""

    task_id: str
    agent_id: str
    status: TaskStatus
    url: str
    events_url: str


class TaskView(BaseModel):
    """The state of a task."""

    task_id: str
    agent_id: str
    input: str
    status: TaskStatus
    attempts: int
    answer: str | None
    error: dict[str, Any] | None
    usage: dict[str, int]
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class AgentStatus(AgentCreated):
    """An agent, its number of tasks by status, and the latest of them."""

    tasks: dict[TaskStatus, int]
    latest: list[TaskView]


class AgentDeleted(BaseModel):
    """A deleted agent, and its tasks that were cancelled."""

    agent_id: str
    deleted: bool = True
    cancelled_tasks: list[str]


class AgentList(BaseModel):
    """Agents of the caller's tenant, oldest first."""

    agents: list[AgentView]


class TaskEvent(BaseModel):
    """An event of a task, as the event stream sends it.

    Attributes:
        seq: Number of the event in its task, from 1.
        type: Type of the event, such as ``model_call``.
        created_at: UTC.
        data: What happened.
    """

    seq: int
    type: str
    created_at: datetime
    data: dict[str, Any]


def created_view(row: AgentRow) -> AgentCreated:
    """The response to the creation of an agent."""
    return AgentCreated(
        agent_id=row.id,
        name=row.spec["name"],
        engine=row.spec["engine"],
        model=row.spec["model"],
        created_at=row.created_at,
    )


def agent_view(row: AgentRow) -> AgentView:
    """An agent with its specification."""
    return AgentView(**dict(created_view(row)), spec=AgentSpec.from_stored(row.spec))


def status_view(row: AgentRow, counts: dict[str, int], latest: list[TaskRow]) -> AgentStatus:
    """An agent with its tasks."""
    return AgentStatus(
        **dict(created_view(row)),
        tasks={TaskStatus(status): number for status, number in counts.items()},
        latest=[task_view(task) for task in latest],
    )


def task_view(row: TaskRow) -> TaskView:
    """The state of a task."""
    # The table's columns have the response's names, but for the id.
    names = [name for name in TaskView.model_fields if name != "task_id"]
    return TaskView(task_id=row.id, **{name: getattr(row, name) for name in names})


def accepted_view(row: TaskRow) -> TaskAccepted:
    """The response to a new task."""
    url = f"/agents/{row.agent_id}/tasks/{row.id}"
    return TaskAccepted(
        task_id=row.id,
        agent_id=row.agent_id,
        status=TaskStatus(row.status),
        url=url,
        events_url=f"{url}/events",
    )


OnEvent = Callable[[str, TaskEvent], None]
"""Called with the task's id and each of its events."""
Response = TypeVar("Response", bound=BaseModel)


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
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=60)

    def __enter__(self) -> AgentsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, spec: AgentSpec) -> str:
        """Create an agent; returns its id."""
        body = spec.model_dump(mode="json")
        return self._send("POST", "/agents/create", AgentCreated, body).agent_id

    def delete(self, agent_id: str) -> AgentDeleted:
        """Delete an agent; its unfinished tasks are cancelled."""
        return self._send("DELETE", f"/agents/{agent_id}", AgentDeleted)

    def post_task(self, agent_id: str, task: str) -> str:
        """Give the agent a task; returns its id."""
        path = f"/agents/{agent_id}/task"
        return self._send("POST", path, TaskAccepted, {"task": task}).task_id

    def task(self, agent_id: str, task_id: str) -> TaskView:
        """The state of a task."""
        return self._send("GET", f"/agents/{agent_id}/tasks/{task_id}", TaskView)

    def events(self, agent_id: str, task_id: str, after: int = 0) -> Iterator[TaskEvent]:
        """Events numbered above ``after``, over one connection."""
        url = f"/agents/{agent_id}/tasks/{task_id}/events"
        headers = {"Last-Event-ID": str(after)}
        with self._http.stream("GET", url, headers=headers) as response:
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
        while not events or events[-1].type not in FINAL:
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

    def _send(
        self, method: str, path: str, model: type[Response], body: Mapping[str, Any] | None = None
    ) -> Response:
        response = self._http.request(method, path, json=body)
        _check_status(response)
        return model.model_validate_json(response.content)


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

    The agent is deleted once all have ended; its tasks and their events stay readable.

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
        results = [
            # At least a second, or a task that has already ended could not be read past the
            # deadline.
            client.follow(agent_id, task_id, max(1.0, deadline - time.monotonic()), on_event)
            for task_id in ids
        ]
        # A tenant has a bounded number of agents, and nobody has the id of this one.
        with suppress(ServingError, httpx.HTTPError):
            client.delete(agent_id)
        return results


def run_recipe(recipe: AgentsRecipe, on_event: OnEvent | None = None) -> list[TaskResult]:
    """Give the recipe's tasks to its first agent through the gateway.

    Raises:
        UsageError: The recipe has no tasks, or there is no key.
    """
    if not recipe.tasks:
        raise UsageError("The recipe has no tasks.", "List them under `tasks`.", "tasks")
    spec, configured = recipe.spec(), recipe.gateway.api_key
    key = configured.get_secret_value() if configured else os.environ.get("SUNLOOM_API_KEY", "")
    if not key:
        raise UsageError(
            "There is no key for the gateway.",
            "Set SUNLOOM_API_KEY (create a key with: sunloom keys create --scopes "
            "agents,llm,features,models).",
            "gateway.api_key",
        )
    return run_tasks(
        recipe.gateway.url or recipe.serving.url,
        key,
        spec.engine,
        recipe.tasks,
        spec=spec,
        timeout_s=recipe.tasks_timeout_s,
        on_event=on_event,
    )


def _check_status(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    # The body of a streamed response is not there until it is read.
    response.read()
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"Status {response.status_code}: {response.text[:200]}"}
    raise ServingError(str(error["message"]), str(error.get("hint") or ""), error.get("param"))
