"""Scope of one attempt at one task: an engine's calls to the model and to tools.

What the model reads and what it said pass through here unchanged, whichever library runs the loop:
a library's own templates, parsers of answers and checks of arguments see none of them.

The scope of the running task is a context variable, so that one shared model client in a library
serves many tasks concurrently and each call still belongs to its own task.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from sunloom.agents.gateway_client import GatewayClient
from sunloom.agents.journal import Journal
from sunloom.agents.model_reply import USAGE, ModelReply, RequestedCall, read_reply
from sunloom.agents.tools.result_encoder import describe_error
from sunloom.agents.tools.tool import Parameters
from sunloom.agents.tools.toolbox import Emit, Toolbox
from sunloom.errors import AgentError, SunloomError

R = TypeVar("R")
current_scope: ContextVar[TaskScope] = ContextVar("sunloom_task_scope")
_ABOUT_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")

DISPATCHER = "call_tool"
"""Function that an engine registers beside the tools, for its library only: every call of the model
reaches the library as a call of it, with the id of the call in place of what the model wrote."""


class DispatcherParameters(Parameters):
    """Parameters of the dispatcher."""

    call: str
    """Id of the call."""


@dataclass
class TaskScope:
    """One attempt at one task.

    Attributes:
        text: The task.
        toolbox: Its tools.
        gateway: Client for the model.
        journal: Journal of the task's calls.
        emit: Appends an event.
        max_steps: Largest number of model calls.
        steps: Model calls so far.
        usage: Tokens used, replayed calls included.
        answer: The model's final answer, as soon as there is one.
        failure: The first error of ours. Libraries wrap it; the runtime reports this one.
    """

    text: str
    toolbox: Toolbox
    gateway: GatewayClient
    journal: Journal
    emit: Emit
    max_steps: int
    steps: int = 0
    usage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(USAGE, 0))
    answer: str = ""
    failure: SunloomError | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _pending: set[Future[Any]] = field(default_factory=set)
    _closed: bool = False
    _opening: tuple[str, str] = ("", "")
    # By the ids of calls: each call, and the message that holds it.
    _calls: dict[str, RequestedCall] = field(default_factory=dict)
    _said: dict[str, Any] = field(default_factory=dict)

    def open_conversation(self, system: str, task: str) -> None:
        """Set the texts of the first two messages, which a library's templates would change."""
        self._opening = (system, task)

    async def complete(self, body: bytes) -> httpx.Response:
        """One chat completion, journalled, counted and metered.

        Args:
            body: The library's request.

        Returns:
            The reply for the library, with all tool calls as calls of the dispatcher.

        Raises:
            AgentError: Too many steps, an error of the gateway, or an answer that is empty, cut
                off, or none.
        """
        self._check_open()
        self.steps += 1
        step = self.steps
        began = time.perf_counter()
        try:
            if step > self.max_steps:
                raise AgentError(
                    f"The task is not done after {self.max_steps} model calls.",
                    "Raise the agent's max_steps, or give it a smaller task.",
                )
            request = self._restore_texts(json.loads(body))
            outcome = await self.journal.call_once(
                "model", request, lambda _key: self._call_model(request)
            )
            reply = self._name_calls(read_reply(outcome.data), step)
            # Replayed calls count, too: the sum is that of the whole task, not of the last attempt.
            for name in USAGE:
                self.usage[name] += reply.usage[name]
            if not outcome.replayed:
                ms = round((time.perf_counter() - began) * 1000, 1)
                calls = [call.name for call in reply.calls]
                event = {"step": step, "ms": ms, "tool_calls": calls, "usage": dict(reply.usage)}
                await self.emit("model_call", event)
            if not reply.calls:
                if not reply.text.strip():
                    raise AgentError("The model's answer is empty.")
                self.answer = reply.text.strip()
        except SunloomError as error:
            self.failure = self.failure or error
            raise
        return httpx.Response(200, json=self._reply_for_library(reply, request["model"]))

    async def dispatch(self, call_id: str) -> str:
        """One tool call; returns the text that the model reads.

        Args:
            call_id: Id of a call of the latest reply.

        Raises:
            AgentError: The task cannot continue.
        """
        self._check_open()
        call = self._calls[call_id]
        try:
            return await self.toolbox.call(call.name, call.arguments)
        except SunloomError as error:
            self.failure = self.failure or error
            raise
        except Exception as error:
            # A library would show its text to the model, which would call the tool again.
            self.failure = self.failure or AgentError(
                f"The call of {call.name} could not be finished: {describe_error(error)}"
            )
            raise self.failure from error

    def from_thread(self, work: Coroutine[Any, Any, R]) -> R:
        """Run one of the calls above from a library's own thread, and wait for it."""
        # The connections and locks of a call belong to the event loop of the runtime.
        if self._closed:
            # A coroutine that is dropped unstarted makes Python warn that it was never awaited.
            work.close()
        self._check_open()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._pending.add(future)
        try:
            return future.result()
        finally:
            self._pending.discard(future)

    def close(self) -> None:
        """Close the scope: running calls are cancelled, further ones raise."""
        self._closed = True
        # A copy: cancelling a future removes it from the set in the library's thread.
        for future in list(self._pending):
            future.cancel()

    async def _call_model(self, request: Any) -> Any:
        response = await self.gateway.complete(json.dumps(request).encode())
        try:
            reply = read_reply(response.json())
        except (ValueError, RecursionError) as error:
            raise AgentError("The model's reply cannot be read: it is no JSON.") from error
        # Raised inside the call, so the journal does not record it as finished.
        if reply.is_cut_off:
            raise AgentError(
                "The model's answer was cut off at max_tokens.", "Raise the agent's max_tokens."
            )
        return reply.completion(request["model"])

    def _restore_texts(self, request: Any) -> Any:
        """The library's request with the true texts, and without the dispatcher."""
        messages = request["messages"]
        for message, text in zip(messages, self._opening, strict=False):
            message["content"] = text
        for index, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                messages[index] = self._said.get(calls[0]["id"], message)
            elif message.get("name") == DISPATCHER:
                message["name"] = self._calls[message["tool_call_id"]].name
        tools = [tool for tool in request["tools"] if tool["function"]["name"] != DISPATCHER]
        if tools:
            return {**request, "tools": tools}
        # Without tools nothing may be said about them.
        return {key: value for key, value in request.items() if key not in _ABOUT_TOOLS}

    def _name_calls(self, reply: ModelReply, step: int) -> ModelReply:
        """The reply with an id for each call that no other call of the task has."""
        calls, ids = [], set(self._said)
        for index, call in enumerate(reply.calls):
            unique = call.id if call.id and call.id not in ids else f"call_{step}_{index}_again"
            ids.add(unique)
            calls.append(replace(call, id=unique))
        return replace(reply, calls=tuple(calls))

    def _reply_for_library(self, reply: ModelReply, model: str) -> Any:
        said = reply.message()
        for call in reply.calls:
            self._said[call.id] = said
            self._calls[call.id] = call
        dispatched = [
            replace(call, name=DISPATCHER, arguments=json.dumps({"call": call.id}))
            for call in reply.calls
        ]
        return replace(reply, calls=tuple(dispatched)).completion(model)

    def _check_open(self) -> None:
        if self._closed:
            raise AgentError("The task was stopped.")
        # Libraries go on after an error of ours; the task has failed, and nothing more is done.
        if self.failure is not None:
            raise self.failure


class ScopedTransport(httpx.AsyncBaseTransport):
    """Transport of httpx for async libraries: model calls go through the running task's scope."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a chat completion; raise for any other request."""
        _check_path(request)
        return await current_scope.get().complete(await request.aread())


class ScopedThreadTransport(httpx.BaseTransport):
    """Transport of httpx for blocking libraries that run in threads."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a chat completion; raise for any other request."""
        _check_path(request)
        scope = current_scope.get()
        return scope.from_thread(scope.complete(request.read()))


def _check_path(request: httpx.Request) -> None:
    if request.method != "POST" or not request.url.path.endswith("/chat/completions"):
        raise AgentError(f"Agents may not call {request.method} {request.url.path}.")
