"""Agents: tasks on models and tools, run by CrewAI or Semantic Kernel, durable in the database."""

from __future__ import annotations

from typing import Any

from sunloom.agents.states import TaskStatus

__all__ = ["AgentRuntime", "AgentStore", "TaskStatus", "run_tasks"]

_HOMES = {
    "AgentRuntime": "sunloom.agents.runtime",
    "AgentStore": "sunloom.agents.store",
    "run_tasks": "sunloom.agents.client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
