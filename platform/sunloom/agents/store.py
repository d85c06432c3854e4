"""Store of agents, tasks, events and journal: tables, states of a task, and the queue.

It is the durable state of the runtime: whatever process runs an agent finds its tasks here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    ForeignKey,
    Integer,
    Select,
    String,
    Text,
    UniqueConstraint,
    func,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config.agents import AgentSpec
from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.errors import ConflictError, NotFoundError, RateLimitError

R = TypeVar("R")


class TaskStatus(StrEnum):
    """Status of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})

_UNFINISHED = (TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.AWAITING_APPROVAL)
_TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED, TaskStatus.FAILED}),
    # Back to queued when the actor that ran the task died.
    TaskStatus.RUNNING: frozenset({TaskStatus.QUEUED, TaskStatus.AWAITING_APPROVAL, *FINAL}),
    TaskStatus.AWAITING_APPROVAL: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING, *FINAL}),
    TaskStatus.SUCCEEDED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


def check_transition(task_id: str, now: TaskStatus, then: TaskStatus) -> None:
    """Check that a transition is allowed.

    Raises:
        ConflictError: The task cannot change from ``now`` to ``then``.
    """
    if then not in _TRANSITIONS[now]:
        raise ConflictError(
            f"Task {task_id} is {now.value} and cannot become {then.value}.",
            f"From {now.value}: {', '.join(sorted(_TRANSITIONS[now])) or 'none, it is finished'}.",
        )


class AgentRow(Base):
    """An agent: the specification that its actor is built from."""

    __tablename__ = "agents"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(100), index=True)
    # The whole specification: a restarted actor needs no recipe.
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class DeletedAgentRow(Base):
    """An agent that was deleted; its tasks and their events stay as a record."""

    # Beside the agents, whose table an earlier commit made: no column can be added to it.
    __tablename__ = "deleted_agents"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class TaskRow(Base):
    """A task of an agent."""

    __tablename__ = "agent_tasks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.id"), index=True)
    input: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20), index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    answer: Mapped[str | None] = mapped_column(Text, default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    usage: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class EventRow(Base):
    """One entry of a task's event log; ``seq`` counts from 1 without gaps."""

    __tablename__ = "agent_events"

    task_id: Mapped[str] = mapped_column(ForeignKey("agent_tasks.id"), primary_key=True)
    # Numbered within the task, without gaps: clients resume a stream by the number.
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class JournalRow(Base):
    """A model call, tool call or approval of a task, with its outcome once it has finished.

    ``digest`` and ``occurrence`` identify the call: the n-th with the same content.
    """

    __tablename__ = "agent_journal"
    __table_args__ = (UniqueConstraint("task_id", "kind", "digest", "occurrence"),)

    task_id: Mapped[str] = mapped_column(ForeignKey("agent_tasks.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(64))
    occurrence: Mapped[int] = mapped_column(Integer)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    # SQL NULL, not the JSON value null: the first outcome is written where it is NULL.
    outcome: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


@dataclass(frozen=True)
class TenantLimits:
    """How much of the agents' runtime a tenant may use.

    Attributes:
        agents: Agents that exist.
        working: Agents with unfinished tasks.
        tasks: Unfinished tasks.
    """

    agents: int
    working: int
    tasks: int


UNLIMITED = TenantLimits(agents=2**31, working=2**31, tasks=2**31)
"""Limits of the operator's own use."""


class AgentStore:
    """Agents, tasks, events and journal in the database.

    Args:
        database: Database of the tables, which are created if missing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(AgentRow, DeletedAgentRow, TaskRow, EventRow, JournalRow)

    def create_agent(
        self, spec: AgentSpec, tenant: str, limits: TenantLimits = UNLIMITED
    ) -> AgentRow:
        """Record a new agent of ``tenant``.

        Raises:
            ConflictError: The tenant has as many as it may have.
        """
        agent_id = f"agent_{secrets.token_hex(12)}"
        row = AgentRow(id=agent_id, tenant=tenant, spec=spec.model_dump(mode="json"))
        count = select(func.count()).select_from(_existing_agents(tenant).subquery())
        with self._database.session() as session:
            session.add(row)
            # After the insert, which locks SQLite: of two at once one sees the other.
            session.flush()
            if (number := session.scalar(count) or 0) > limits.agents:
                raise ConflictError(
                    f"Tenant {tenant!r} has {number - 1} agents and may have {limits.agents}.",
                    "Delete one: DELETE /agents/{agent_id}, or sunloom agents delete AGENT_ID.",
                )
        return row

    def agent(self, agent_id: str, tenant: str | None = None, *, deleted: bool = False) -> AgentRow:
        """The agent; with ``tenant``, only if it is that tenant's.

        Args:
            agent_id: The agent.
            tenant: Owner that it must have.
            deleted: Whether it may be a deleted one.

        Raises:
            NotFoundError: There is no such agent.
        """
        with self._database.session() as session:
            row = session.get(AgentRow, agent_id)
            is_deleted = session.get(DeletedAgentRow, agent_id) is not None
        is_hidden = is_deleted and not deleted
        if row is None or is_hidden or (tenant is not None and row.tenant != tenant):
            # Another tenant's agent looks like one that does not exist.
            known = [agent.id for agent in self.agents(tenant)]
            raise NotFoundError(
                f"There is no agent {agent_id!r}.", param="agent_id", known=known, name=agent_id
            )
        return row

    def agents(self, tenant: str | None = None) -> list[AgentRow]:
        """Agents, oldest first; of one tenant if given."""
        return self._list(_existing_agents(tenant).order_by(AgentRow.created_at, AgentRow.id))

    def delete_agent(self, agent_id: str) -> list[str]:
        """Delete an agent: it takes no tasks any more, and its unfinished ones are cancelled.

        Returns:
            Ids of the tasks that were cancelled.
        """
        query = select(TaskRow).where(TaskRow.agent_id == agent_id, TaskRow.status.in_(_UNFINISHED))

        def delete(session: Session) -> list[str]:
            session.get_one(AgentRow, agent_id, with_for_update=True)
            if session.get(DeletedAgentRow, agent_id) is None:
                session.add(DeletedAgentRow(id=agent_id))
                session.flush()
            rows = session.scalars(query.with_for_update()).all()
            for row in rows:
                row.cancel_requested = True
                _set_status(session, row, TaskStatus.CANCELLED, "cancelled", {})
            return [row.id for row in rows]

        return self._retry(delete)

    def add_task(self, agent_id: str, text: str, limits: TenantLimits = UNLIMITED) -> TaskRow:
        """Queue a task; its first event is ``queued``.

        Raises:
            NotFoundError: The agent has been deleted meanwhile.
            RateLimitError: The tenant has as many unfinished tasks or working agents as it may.
        """
        task_id = f"task_{secrets.token_hex(12)}"
        row = TaskRow(id=task_id, agent_id=agent_id, input=text, status=TaskStatus.QUEUED, usage={})
        with self._database.session() as session:
            # Locked where rows are: the agent is not deleted before the task is there.
            agent = session.get_one(AgentRow, agent_id, with_for_update=True)
            session.add(row)
            session.flush()
            if session.get(DeletedAgentRow, agent_id) is not None:
                raise NotFoundError(f"There is no agent {agent_id!r}.", param="agent_id")
            _check_load(session, agent.tenant, limits)
            _append(session, row.id, "queued", {"input": text})
        return row

    def task(self, task_id: str, agent_id: str | None = None) -> TaskRow:
        """The task, if it is the agent's.

        Raises:
            NotFoundError: There is no such task.
        """
        with self._database.session() as session:
            row = session.get(TaskRow, task_id)
        if row is None or (agent_id is not None and row.agent_id != agent_id):
            raise NotFoundError(
                f"There is no task {task_id!r}.", "List tasks with GET /agents/{agent_id}/status."
            )
        return row

    def tasks(self, agent_id: str, limit: int = 100) -> list[TaskRow]:
        """The agent's latest tasks, newest first."""
        query = select(TaskRow).where(TaskRow.agent_id == agent_id)
        # The id decides between tasks of the same time, so that a page is stable.
        return self._list(query.order_by(TaskRow.created_at.desc(), TaskRow.id).limit(limit))

    def unfinished_tasks(self, limit: int) -> list[TaskRow]:
        """The oldest unfinished tasks of all agents."""
        query = select(TaskRow).where(TaskRow.status.in_(_UNFINISHED))
        return self._list(query.order_by(TaskRow.created_at, TaskRow.id).limit(limit))

    def outcome(self, task_id: str, seq: int) -> dict[str, Any] | None:
        """The outcome of a call in the journal; None while it has none."""
        query = select(JournalRow.outcome).where(
            JournalRow.task_id == task_id, JournalRow.seq == seq
        )
        with self._database.session() as session:
            return session.scalar(query)

    def counts(self, agent_id: str) -> dict[str, int]:
        """Number of the agent's tasks by status."""
        query = select(TaskRow.status, func.count()).where(TaskRow.agent_id == agent_id)
        query = query.group_by(TaskRow.status)
        with self._database.session() as session:
            numbers = {row[0]: row[1] for row in session.execute(query)}
        return {status.value: numbers.get(status.value, 0) for status in TaskStatus}

    def claim(self, agent_id: str, among: Collection[str] | None = None) -> TaskRow | None:
        """Claim the oldest queued task and mark it running; None if the queue is empty.

        Args:
            agent_id: The agent.
            among: Ids of the tasks that may be claimed; all of them if None.
        """
        oldest = (
            select(TaskRow.id)
            .where(TaskRow.agent_id == agent_id, TaskRow.status == TaskStatus.QUEUED)
            .order_by(TaskRow.created_at, TaskRow.id)
            .limit(1)
        )
        if among is not None:
            oldest = oldest.where(TaskRow.id.in_(among))

        def claim(session: Session) -> TaskRow | None:
            # Another process may claim the task in between: then look for the next one.
            while (task_id := session.scalar(oldest)) is not None:
                # The condition on the status makes the claim atomic: only one process updates
                # the row.
                attempt = session.execute(
                    update(TaskRow)
                    .where(TaskRow.id == task_id, TaskRow.status == TaskStatus.QUEUED)
                    .values(
                        status=TaskStatus.RUNNING,
                        attempts=TaskRow.attempts + 1,
                        started_at=utc_now(),
                    )
                    .returning(TaskRow.attempts)
                ).scalar_one_or_none()
                if attempt is not None:
                    _append(session, task_id, "started", {"attempt": attempt})
                    return session.get_one(TaskRow, task_id, populate_existing=True)
            return None

        return self._retry(claim)

    def requeue_unfinished(self, agent_id: str, max_attempts: int) -> list[str]:
        """After a restart: queue the tasks that were running, or fail those out of attempts."""
        query = select(TaskRow).where(
            TaskRow.agent_id == agent_id,
            TaskRow.status.in_((TaskStatus.RUNNING, TaskStatus.AWAITING_APPROVAL)),
        )

        def requeue(session: Session) -> list[str]:
            requeued = []
            for row in session.scalars(query):
                # The process that should have stopped it is gone.
                if row.cancel_requested:
                    _set_status(session, row, TaskStatus.CANCELLED, "cancelled", {})
                # A task that ends its actor every time must not do so forever.
                elif row.attempts >= max_attempts:
                    error = {"code": "agent", "message": f"The actor died {row.attempts} times."}
                    _set_status(
                        session, row, TaskStatus.FAILED, "failed", {"error": error}, error=error
                    )
                else:
                    attempts = {"attempts": row.attempts}
                    _set_status(session, row, TaskStatus.QUEUED, "requeued", attempts)
                    requeued.append(row.id)
            return requeued

        return self._retry(requeue)

    def transition(
        self, task_id: str, then: TaskStatus, event: str, data: dict[str, Any], **fields: Any
    ) -> TaskRow:
        """Change a task's status, set ``fields`` and log ``event``, all in one transaction.

        Raises:
            ConflictError: The transition is not allowed.
        """

        def move(session: Session) -> TaskRow:
            # PostgreSQL locks the row until the commit; SQLite has one writer at a time.
            row = session.get_one(TaskRow, task_id, with_for_update=True)
            check_transition(task_id, TaskStatus(row.status), then)
            _set_status(session, row, then, event, data, **fields)
            return row

        return self._retry(move)

    def request_cancel(self, task_id: str) -> TaskRow:
        """Cancel a queued task at once; request a running one to stop. Idempotent."""

        def cancel(session: Session) -> TaskRow:
            row = session.get_one(TaskRow, task_id, with_for_update=True)
            status = TaskStatus(row.status)
            if status in FINAL or row.cancel_requested:
                return row
            # Only the process that runs the task can stop it; its runtime polls for requests.
            row.cancel_requested = True
            if status is TaskStatus.QUEUED:
                _set_status(session, row, TaskStatus.CANCELLED, "cancelled", {})
            else:
                _append(session, task_id, "cancel_requested", {})
            return row

        return self._retry(cancel)

    def cancel_requests(self, agent_id: str) -> list[str]:
        """Unfinished tasks of the agent with a cancel request."""
        query = select(TaskRow.id).where(
            TaskRow.agent_id == agent_id,
            TaskRow.cancel_requested.is_(True),
            TaskRow.status.in_(_UNFINISHED),
        )
        return self._list(query)

    def append_event(self, task_id: str, event: str, data: dict[str, Any]) -> int:
        """Append an event and return its number."""
        return self._retry(lambda session: _append(session, task_id, event, data))

    def events(self, task_id: str, after: int = 0, limit: int = 500) -> list[EventRow]:
        """Events numbered above ``after``, in order."""
        query = select(EventRow).where(EventRow.task_id == task_id, EventRow.seq > after)
        return self._list(query.order_by(EventRow.seq).limit(limit))

    def journal(self, task_id: str) -> list[JournalRow]:
        """The task's calls in the order in which they began."""
        query = select(JournalRow).where(JournalRow.task_id == task_id)
        return self._list(query.order_by(JournalRow.seq))

    def final_calls(self, tenant: str, agent_id: str | None = None) -> list[JournalRow]:
        """The last model call of each task of a tenant that has succeeded, oldest task first.

        Its request holds all that was said before, and its outcome is the answer.

        Args:
            tenant: Owner of the agents, deleted ones too.
            agent_id: Only this agent's tasks.
        """
        last = select(JournalRow.task_id, func.max(JournalRow.seq).label("seq"))
        last = last.where(JournalRow.kind == "model", JournalRow.outcome.is_not(None))
        ends = last.group_by(JournalRow.task_id).subquery()
        is_last = (JournalRow.task_id == ends.c.task_id) & (JournalRow.seq == ends.c.seq)
        query = select(JournalRow).join(ends, is_last)
        query = query.join(TaskRow, TaskRow.id == JournalRow.task_id)
        query = query.join(AgentRow, AgentRow.id == TaskRow.agent_id)
        query = query.where(AgentRow.tenant == tenant, TaskRow.status == TaskStatus.SUCCEEDED)
        if agent_id is not None:
            query = query.where(AgentRow.id == agent_id)
        return self._list(query.order_by(TaskRow.created_at, TaskRow.id))

    def open_entry(self, entry: JournalRow) -> JournalRow:
        """Record that a call is about to be made; the same call of an earlier attempt is reused."""
        same_call = select(JournalRow).where(
            JournalRow.task_id == entry.task_id,
            JournalRow.kind == entry.kind,
            JournalRow.digest == entry.digest,
            JournalRow.occurrence == entry.occurrence,
        )

        def add(session: Session) -> JournalRow:
            existing = session.scalars(same_call).one_or_none()
            if existing is not None:
                return existing
            # A copy per attempt: a rolled-back session leaves its row unusable.
            row = JournalRow(
                task_id=entry.task_id,
                seq=_next_seq(session, JournalRow, entry.task_id),
                kind=entry.kind,
                digest=entry.digest,
                occurrence=entry.occurrence,
                request=entry.request,
                outcome=None,
            )
            session.add(row)
            return row

        return self._retry(add)

    def close_entry(self, task_id: str, seq: int, outcome: dict[str, Any]) -> None:
        """Record the outcome of a call, unless it has one already."""
        # The first outcome stays, whoever else finishes the same call.
        query = update(JournalRow).where(
            JournalRow.task_id == task_id, JournalRow.seq == seq, JournalRow.outcome.is_(None)
        )

        def close(session: Session) -> None:
            session.execute(query.values(outcome=outcome))

        self._retry(close)

    def _list(self, query: Select[R]) -> list[R]:
        with self._database.session() as session:
            return list(session.scalars(query))

    def _retry(self, work: Callable[[Session], R], attempts: int = 20) -> R:
        # Two writers of one task may choose the same number: one insert fails and is repeated.
        for attempt in range(attempts):
            try:
                with self._database.session() as session:
                    return work(session)
            except (IntegrityError, OperationalError):
                if attempt == attempts - 1:
                    raise
        raise AssertionError("unreachable")


def _existing_agents(tenant: str | None) -> Select[AgentRow]:
    deleted = select(DeletedAgentRow.id)
    query = select(AgentRow).where(AgentRow.id.not_in(deleted))
    return query if tenant is None else query.where(AgentRow.tenant == tenant)


def _check_load(session: Session, tenant: str, limits: TenantLimits) -> None:
    """Check a tenant's unfinished tasks, the new one among them."""
    query = (
        select(func.count(), func.count(TaskRow.agent_id.distinct()))
        .join(AgentRow, AgentRow.id == TaskRow.agent_id)
        .where(AgentRow.tenant == tenant, TaskRow.status.in_(_UNFINISHED))
    )
    tasks, working = session.execute(query).one()
    if tasks > limits.tasks:
        raise RateLimitError(
            f"Tenant {tenant!r} has {tasks - 1} unfinished tasks and may have {limits.tasks}.",
            "Wait until some have ended, or cancel them.",
        )
    if working > limits.working:
        raise RateLimitError(
            f"Tenant {tenant!r} has {working - 1} agents at work and may have {limits.working}.",
            "Give the task to one of them, or wait until the tasks of one have ended.",
        )


def _next_seq(session: Session, table: type[EventRow] | type[JournalRow], task_id: str) -> int:
    query = select(func.coalesce(func.max(table.seq), 0)).where(table.task_id == task_id)
    return int(session.scalar(query) or 0) + 1


def _append(session: Session, task_id: str, event: str, data: dict[str, Any]) -> int:
    seq = _next_seq(session, EventRow, task_id)
    session.add(EventRow(task_id=task_id, seq=seq, type=event, data=data))
    # A number that is taken already must fail here, where the caller still repeats the work.
    session.flush()
    return seq


def _set_status(
    session: Session,
    row: TaskRow,
    then: TaskStatus,
    event: str,
    data: dict[str, Any],
    **fields: Any,
) -> None:
    """Change a task's status, set ``fields`` and log ``event``."""
    row.status = then
    if then in FINAL:
        row.finished_at = utc_now()
    for name, value in fields.items():
        setattr(row, name, value)
    _append(session, row.id, event, data)
