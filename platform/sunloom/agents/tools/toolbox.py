"""Toolbox of an agent: binds tools, validates and journals calls, runs hooks, emits events."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from sunloom.agents.gateway_client import GatewayClient
from sunloom.agents.journal import Journal
from sunloom.agents.tools.result_encoder import (
    MAX_RESULT_CHARS,
    describe_error,
    encode_result,
    shorten_error,
    to_compact_json,
)
from sunloom.agents.tools.tool import Tool, ToolCall
from sunloom.config.agents import ToolConfig
from sunloom.core.plugins import load_plugin
from sunloom.errors import ConfigError, NotFoundError, SunloomError, ToolError

Emit = Callable[[str, dict[str, Any]], Awaitable[None]]
_UNFINISHED = (Coroutine, AsyncIterator, Iterator)
_TOOL_THREADS = 64


@dataclass(frozen=True)
class BoundTool:
    """A tool with an agent's options.

    Attributes:
        tool: The declaration.
        options: Its validated options.
        approval: Whether a person must approve every call.
    """

    tool: Tool[Any, Any]
    options: BaseModel
    approval: bool = False


@dataclass(frozen=True)
class PendingCall:
    """A tool call that hooks may still deny.

    Attributes:
        bound: The tool.
        arguments: Validated arguments as plain data.
    """

    bound: BoundTool
    arguments: dict[str, Any]


Hook = Callable[[PendingCall], Awaitable[None]]
"""Checks a call before it is made; any exception denies the call."""


def bind_tools(configured: Iterable[ToolConfig]) -> dict[str, BoundTool]:
    """Load the configured tools from their entry points, in order.

    Raises:
        NotFoundError: There is no such tool; the known ones are listed.
        ConfigError: The tool has no such options.
    """
    tools = {}
    for config in configured:
        tool = _load(config.name)
        try:
            options = tool.options.model_validate(config.options)
        except ValidationError as error:
            raise ConfigError(
                f"Tool {config.name!r} does not take these options: {_describe(error)}",
                f"Options: {', '.join(tool.options.model_fields) or 'none'}",
                "tools",
            ) from error
        tools[tool.name] = BoundTool(tool, options, config.approval)
    return tools


def needed_scopes(bound: Iterable[BoundTool]) -> frozenset[str]:
    """Scopes that a key needs to call these tools."""
    return frozenset(scope for entry in bound for scope in entry.tool.scopes)


@cache
def _load(name: str) -> Tool[Any, Any]:
    # Reading the entry points of a whole environment takes tens of milliseconds.
    tool: Tool[Any, Any] = load_plugin("sunloom.tools", name, Tool)
    return tool


class Toolbox:
    """Makes an agent's tool calls.

    Args:
        tools: The bound tools by name.
        gateway: HTTP client of the tools.
        journal: Journal of the task.
        emit: Appends an event.
        hooks: Called in order before every call.
    """

    def __init__(
        self,
        tools: Mapping[str, BoundTool],
        gateway: GatewayClient,
        journal: Journal,
        emit: Emit,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._tools = tools
        self._gateway = gateway
        self._journal = journal
        self._emit = emit
        self._hooks = hooks

    @property
    def tools(self) -> list[Tool[Any, Any]]:
        """The declarations, in the order in which the model sees them."""
        return [bound.tool for bound in self._tools.values()]

    async def call(self, name: str, arguments: str) -> str:
        """Call a tool with arguments as the model wrote them; returns compact JSON for the model.

        Errors that the model may react to (wrong name or arguments, a denial, a tool's own error)
        are returned as ``{"error": …}``; all others are raised and end the task.
        """
        try:
            return to_compact_json(await self._call(name, arguments))
        except (ToolError, NotFoundError) as error:
            return to_compact_json({"error": shorten_error(error.message)})

    async def _call(self, name: str, text: str) -> Any:
        if name not in self._tools:
            raise NotFoundError(
                f"There is no tool {name!r}. Known: {', '.join(self._tools)}.",
                known=self._tools,
                name=name,
            )
        bound = self._tools[name]
        # Before the hooks: a person approves the arguments that will be used, defaults included.
        try:
            validated: BaseModel = bound.tool.parameters.model_validate(_parse(name, text))
        except ValidationError as error:
            raise ToolError(f"Wrong arguments for {name}: {_describe(error)}") from error
        # Not cut as a result is: a person approves what the tool receives.
        if (length := len(validated.model_dump_json())) > MAX_RESULT_CHARS:
            raise ToolError(
                f"Wrong arguments for {name}: {length} characters, at most {MAX_RESULT_CHARS}."
            )
        arguments = encode_result(validated.model_dump(mode="json"))
        request: dict[str, Any] = {"tool": name, "arguments": arguments}
        await self._run_hooks(PendingCall(bound, request["arguments"]))
        # After the hooks: waiting for an approval is not the tool's time.
        began = time.perf_counter()
        outcome = await self._journal.call_once(
            "tool", request, lambda key: self._run_tool(bound, validated, key)
        )
        # An earlier attempt has emitted the event of a replayed call.
        if not outcome.replayed:
            ms = round((time.perf_counter() - began) * 1000, 1)
            await self._emit("tool_call", {**request, **outcome.data, "ms": ms})
        if "error" in outcome.data:
            raise ToolError(outcome.data["error"])
        return outcome.data["result"]

    async def _run_hooks(self, call: PendingCall) -> None:
        for hook in self._hooks:
            try:
                await hook(call)
            except ToolError:
                raise
            # A hook that fails has not allowed the call.
            except Exception as error:
                raise ToolError(f"The call was refused: {error}") from error

    async def _run_tool(self, bound: BoundTool, arguments: BaseModel, key: str) -> dict[str, Any]:
        """The outcome of a call as plain JSON data, whatever the tool returns or raises."""
        name = bound.tool.name
        call = ToolCall(arguments, bound.options, self._gateway, key)
        try:
            returned = await _call_function(bound.tool.function, call)
        # An outcome like any other: a replayed call must give the model the same error.
        except (ToolError, NotFoundError) as error:
            return {"error": shorten_error(error.message)}
        # Such as a gateway that does not respond: the model could do nothing about it.
        except SunloomError:
            raise
        except GeneratorExit:
            raise
        # Also what would end the process: its other tasks must not end with a tool that calls exit.
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            return {"error": f"{name} failed: {describe_error(error)}"}
        if isinstance(returned, _UNFINISHED):
            if isinstance(returned, Coroutine | Generator):
                returned.close()
            kind = type(returned).__name__
            return {"error": f"{name} failed: it returned a {kind}; a tool must return data."}
        return {"result": encode_result(returned)}


async def _call_function(function: Callable[[Any], Any], call: ToolCall[Any, Any]) -> Any:
    """Call a tool's function, a blocking one in a thread of its own."""
    if inspect.iscoroutinefunction(function):
        return await function(call)
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    # Not the loop's own executor: its few threads are those of the database.
    returned, error = await loop.run_in_executor(
        _tool_threads(), context.run, _call_in_thread, function, call
    )
    if error is not None:
        raise error
    # Such as a lambda around an async function.
    return await returned if inspect.isawaitable(returned) else returned


def _call_in_thread(
    function: Callable[[Any], Any], call: ToolCall[Any, Any]
) -> tuple[Any, BaseException | None]:
    try:
        return function(call), None
    # Handed on, not raised: a future cannot hold a StopIteration, and a SystemExit that it raises
    # ends the event loop.
    except BaseException as error:  # noqa: BLE001
        return None, error


@cache
def _tool_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_TOOL_THREADS, thread_name_prefix="tool")


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _parse(name: str, text: str) -> Any:
    """The arguments as a mapping; none at all are an empty one.

    Raises:
        ToolError: They are something else.
    """
    try:
        arguments = json.loads(text, parse_constant=_refuse_constant) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ToolError(f"Wrong arguments for {name}: they must be a JSON object.") from error
    if not isinstance(arguments, dict):
        raise ToolError(f"Wrong arguments for {name}: they must be a JSON object.")
    return arguments


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _describe(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
