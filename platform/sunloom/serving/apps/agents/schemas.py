"""Bodies of the agents' routes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi.openapi.models import Example
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from sunloom.agents.tables import AgentRow, TaskRow
from sunloom.agents.task_states import TaskStatus
from sunloom.config.agents import AgentSpec

EXAMPLES: dict[str, Example] = {
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
"""Body of ``POST /agents/create`` in the docs."""


class _Body(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class TaskRequest(_Body):
    """A task in plain words."""

    task: str = Field(
        min_length=1,
        max_length=20_000,
        validation_alias=AliasChoices("task", "input"),
        examples=["Should customer 4711 get a voucher?"],
    )


class Decision(_Body):
    """What a person decides on a call that waits for approval."""

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
    """An agent and what it was made from."""

    spec: AgentSpec


class TaskAccepted(BaseModel):
    """A task in the queue, and where to look for it."""

    task_id: str
    agent_id: str
    status: TaskStatus
    url: str
    events_url: str


class TaskView(BaseModel):
    """A task as it stands."""

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


def created_view(row: AgentRow) -> AgentCreated:
    """The row as the answer to its creation."""
    return AgentCreated(**_agent_fields(row))


def agent_view(row: AgentRow) -> AgentView:
    """The row with its specification."""
    return AgentView(**_agent_fields(row), spec=AgentSpec.model_validate(row.spec))


def status_view(row: AgentRow, counts: dict[str, int], latest: list[TaskRow]) -> AgentStatus:
    """The row with its tasks."""
    tasks = {TaskStatus(status): number for status, number in counts.items()}
    return AgentStatus(**_agent_fields(row), tasks=tasks, latest=[task_view(t) for t in latest])


def task_view(row: TaskRow) -> TaskView:
    """The row as an answer."""
    names = [name for name in TaskView.model_fields if name != "task_id"]
    return TaskView(task_id=row.id, **{name: getattr(row, name) for name in names})


def accepted_view(row: TaskRow) -> TaskAccepted:
    """The row as the answer to its creation."""
    url = f"/agents/{row.agent_id}/tasks/{row.id}"
    return TaskAccepted(
        task_id=row.id,
        agent_id=row.agent_id,
        status=TaskStatus(row.status),
        url=url,
        events_url=f"{url}/events",
    )


def _agent_fields(row: AgentRow) -> dict[str, Any]:
    spec = row.spec
    return {
        "agent_id": row.id,
        "name": spec["name"],
        "engine": spec["engine"],
        "model": spec["model"],
        "created_at": row.created_at,
    }
