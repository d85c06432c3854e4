"""CrewAI engine: ``Agent.kickoff`` in one thread per task, within the task's scope."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from openai import OpenAI

from sunloom.agents.task_scope import (
    DISPATCHER,
    DispatcherParameters,
    ScopedThreadTransport,
    TaskScope,
    current_scope,
)
from sunloom.config.agents import AgentSpec
from sunloom.core.telemetry import silence_libraries
from sunloom.errors import AgentError

# CrewAI reads its switches when it is imported.
silence_libraries()

from crewai import Agent  # noqa: E402
from crewai.events.utils.console_formatter import set_suppress_console_output  # noqa: E402
from crewai.llms.providers.openai.completion import OpenAICompletion  # noqa: E402
from crewai.tools import BaseTool  # noqa: E402

_STOP_WAIT_S = 5.0
# It warns in every call that it estimates the number of tokens; the scope counts the usage.
logging.getLogger("crewai").setLevel(logging.ERROR)


class CrewAIEngine:
    """Runs tasks on CrewAI.

    Args:
        spec: The agent.
        model_url: Base URL of the OpenAI-compatible API.
    """

    def __init__(self, spec: AgentSpec, model_url: str) -> None:
        self._spec = spec
        # One for all tasks: building it takes 60 ms, an agent around it almost nothing.
        self._llm = _ScopedCompletion(
            model=spec.model,
            custom_openai=True,
            base_url=model_url,
            # The client demands one; the requests leave with the task's own, which its scope adds.
            api_key="delegated",
            temperature=spec.temperature,
            max_tokens=spec.max_tokens,
            max_retries=0,
        )
        # The library blocks a thread for each running task; the loop's own executor has few.
        self._threads = ThreadPoolExecutor(spec.concurrency, thread_name_prefix="crewai")

    async def run(self, scope: TaskScope) -> str:
        """Work on the scope's task."""
        # run_in_executor does not carry the context as to_thread does, and a context of its own
        # keeps a task's scope out of the thread's next task.
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, context.run, self._kickoff, scope)
        try:
            # Shielded: a cancelled future would hide when its thread ends.
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            scope.close()
            # asyncio logs an error that nobody retrieved.
            work.add_done_callback(lambda run: run.cancelled() or run.exception())
            # A thread cannot be cancelled; it ends at its next call, which the closed scope denies.
            await asyncio.wait({work}, timeout=_STOP_WAIT_S)
            raise

    def _kickoff(self, scope: TaskScope) -> str:
        current_scope.set(scope)
        # A context variable as well: it must be set in the task's own context.
        set_suppress_console_output(True)
        spec = self._spec
        # The prefix is the library's own, and what adapters for agents are trained with.
        scope.open_conversation(spec.system_text(), f"\nCurrent Task: {scope.text}")
        dispatcher = _Dispatcher(
            name=DISPATCHER,
            description="Calls a tool.",
            args_schema=DispatcherParameters,
            scope=scope,
        )
        agent = Agent(
            # The scope sends the texts: here names in braces would be replaced.
            role=spec.name,
            goal=spec.name,
            backstory=spec.name,
            llm=self._llm,
            tools=[
                *(
                    _DeclaredTool(
                        name=tool.name, description=tool.description, args_schema=tool.parameters
                    )
                    for tool in scope.toolbox.tools
                ),
                dispatcher,
            ],
            # One more than the scope allows, so that the scope's error comes first.
            max_iter=spec.max_steps + 1,
            # A cached result would bypass toolbox and journal.
            cache=False,
            # Both ask the model for more than the task does, and offer it tools of their own.
            respect_context_window=False,
            use_better_compaction=False,
            verbose=False,
        )
        agent.kickoff(spec.name)
        # As the model wrote it: the library looks in it for marks such as "Final Answer:".
        return scope.answer


class _ScopedCompletion(OpenAICompletion):
    """CrewAI's OpenAI client with our transport under it.

    ``client_params`` cannot carry it: the same dictionary also builds the async client.
    """

    def _build_sync_client(self) -> Any:
        http_client = httpx.Client(transport=ScopedThreadTransport())
        return OpenAI(**self._get_client_params(), http_client=http_client)


class _DeclaredTool(BaseTool):
    """A tool as the model sees it; the dispatcher calls it."""

    def _run(self, **_arguments: Any) -> str:
        raise AgentError(f"{self.name} was called without the dispatcher.")


class _Dispatcher(BaseTool):
    scope: Any

    def _run(self, call: str) -> str:
        scope: TaskScope = self.scope
        return scope.from_thread(scope.dispatch(call))
