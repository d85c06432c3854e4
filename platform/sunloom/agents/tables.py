"""Database tables of agents, their tasks, the event log and the journal of calls."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, UtcDateTime, utc_now


class AgentRow(Base):
    """An agent: the specification that its actor is built from."""

    __tablename__ = "agents"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(100), index=True)
    # The whole specification: a restarted actor needs no recipe.
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


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


TABLES: tuple[type[Base], ...] = (AgentRow, TaskRow, EventRow, JournalRow)
