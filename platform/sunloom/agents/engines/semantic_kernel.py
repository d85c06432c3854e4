"""Semantic Kernel engine: one ``ChatCompletionAgent`` per task, within the task's scope."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx
from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.functions import (
    KernelArguments,
    KernelFunction,
    KernelFunctionFromMethod,
    KernelParameterMetadata,
    KernelPlugin,
    kernel_function,
)

from sunloom.agents.task_scope import DISPATCHER, ScopedTransport, TaskScope, current_scope
from sunloom.agents.tools.tool import Tool
from sunloom.config.agents import AgentSpec
from sunloom.errors import AgentError

PLUGIN = "tools"


class SemanticKernelEngine:
    """Runs tasks on Semantic Kernel.

    Args:
        spec: The agent.
        model_url: Base URL of the OpenAI-compatible API.
    """

    def __init__(self, spec: AgentSpec, model_url: str) -> None:
        self._spec = spec
        client = AsyncOpenAI(
            base_url=model_url,
            # The scope adds the real key, and retries so that the journal has each call once.
            api_key="delegated",
            max_retries=0,
            http_client=httpx.AsyncClient(transport=ScopedTransport()),
        )
        self._service = OpenAIChatCompletion(ai_model_id=spec.model, async_client=client)

    async def run(self, scope: TaskScope) -> str:
        """Work on the scope's task."""
        scope.open_conversation(self._spec.system_text(), scope.text)
        token = current_scope.set(scope)
        try:
            await self._agent(scope).get_response(self._spec.name)
        finally:
            current_scope.reset(token)
        return scope.answer

    def _agent(self, scope: TaskScope) -> ChatCompletionAgent:
        spec = self._spec
        settings = OpenAIChatPromptExecutionSettings(
            temperature=spec.temperature, max_tokens=spec.max_tokens
        )
        functions = [_declare_function(tool) for tool in scope.toolbox.tools]
        plugin = KernelPlugin(name=PLUGIN, functions=[*functions, _build_dispatcher(scope)])
        for function in plugin.functions.values():
            # With it the model would see tools-get_features, unlike on CrewAI; the kernel finds a
            # name without a plugin in any plugin.
            function.metadata.plugin_name = None
        return ChatCompletionAgent(
            service=self._service,
            name=spec.name,
            # The scope sends the texts: here they would be rendered as a template.
            instructions=spec.name,
            arguments=KernelArguments(settings=settings),
            plugins=[plugin],
            # One more than the scope allows: beyond its own limit this library silently accepts
            # whatever the model says, while the scope raises.
            function_choice_behavior=FunctionChoiceBehavior.Auto(
                maximum_auto_invoke_attempts=spec.max_steps + 1
            ),
        )


class _OrderedResults:
    """Lets parallel calls end in the order in which they began.

    The library appends results in the order in which calls end. In another order the next model
    call would be a different one, which the journal of a crashed task could not replay.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    async def run(self, work: Coroutine[Any, Any, str]) -> str:
        previous, own = self._last, asyncio.get_running_loop().create_future()
        self._last = own
        try:
            result = await work
            if previous is not None:
                await previous
            return result
        finally:
            # Also after an error, or the calls behind this one would wait forever.
            if not own.done():
                own.set_result(None)


def _build_dispatcher(scope: TaskScope) -> KernelFunction:
    order = _OrderedResults()

    @kernel_function(name=DISPATCHER, description="Calls a tool.")
    async def dispatch(call: str) -> str:
        return await order.run(scope.dispatch(call))

    return KernelFunctionFromMethod(method=dispatch, plugin_name=PLUGIN)


def _declare_function(tool: Tool[Any, Any]) -> KernelFunction:
    """A tool as the model sees it; the dispatcher calls it."""

    @kernel_function(name=tool.name, description=tool.description)
    async def call() -> str:
        raise AgentError(f"{tool.name} was called without the dispatcher.")

    schema = tool.schema()
    parameters = [
        KernelParameterMetadata(
            name=name,
            type=str(entry.get("type", "object")),
            type_object=None,
            is_required=name in schema["required"],
            schema_data=entry,
        )
        for name, entry in schema["properties"].items()
    ]
    return KernelFunctionFromMethod(method=call, plugin_name=PLUGIN, parameters=parameters)
