"""Agents: tasks on models and tools, run by CrewAI or Semantic Kernel, durable in the database."""

from __future__ import annotations

from sunloom.agents.states import TaskStatus
from sunloom.core.lazy import lazy_exports

__all__ = ["AgentRuntime", "AgentStore", "TaskStatus", "run_tasks"]

_HOMES = {
    "AgentRuntime": "runtime",
    "AgentStore": "store",
    "run_tasks": "client",
}

__getattr__ = lazy_exports(__name__, _HOMES)
