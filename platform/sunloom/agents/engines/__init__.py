"""Engines: the libraries that run the loop of model and tools, one module each, and their table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sunloom.agents.task_scope import TaskScope
from sunloom.config.agents import AgentSpec


class AgentEngine(Protocol):
    """Runs tasks of one agent, several at a time."""

    async def run(self, scope: TaskScope) -> str:
        """Work on ``scope.text`` until the model answers in plain text; returns that answer."""
        ...


def build_engine(spec: AgentSpec, model_url: str) -> AgentEngine:
    """The engine that the specification names.

    Args:
        spec: The agent.
        model_url: Base URL of the OpenAI-compatible API.
    """
    return _ENGINES[spec.engine](spec, model_url)


def _build_crewai(spec: AgentSpec, model_url: str) -> AgentEngine:
    from sunloom.agents.engines.crewai import CrewAIEngine

    return CrewAIEngine(spec, model_url)


def _build_semantic_kernel(spec: AgentSpec, model_url: str) -> AgentEngine:
    from sunloom.agents.engines.semantic_kernel import SemanticKernelEngine

    return SemanticKernelEngine(spec, model_url)


# Functions, not classes: each library takes seconds to import, and one may not be installed.
_ENGINES: dict[str, Callable[[AgentSpec, str], AgentEngine]] = {
    "crewai": _build_crewai,
    "semantic_kernel": _build_semantic_kernel,
}
