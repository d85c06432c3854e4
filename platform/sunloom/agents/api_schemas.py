"""Request and response bodies of the agents' routes, for the app and its client."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from sunloom.agents.tables import AgentRow, TaskRow
from sunloom.agents.task_states import TaskStatus
from sunloom.config.agents import AgentSpec


class _Body(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class TaskRequest(_Body):
    """A task as text."""

    task: str = Field(
        min_length=1,
        max_length=20_000,
        validation_alias=AliasChoices("task", "input"),
        examples=["Should customer 4711 get a voucher?"],
    )


class Decision(_Body):
    """A person's decision on a call that waits for approval."""

    approved: bool = True
    call: int | None = Field(default=None, ge=1, description="Number from the event.")
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
    return AgentView(**dict(created_view(row)), spec=AgentSpec.model_validate(row.spec))


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
