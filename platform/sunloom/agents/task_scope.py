"""Scope of one attempt at one task: an engine's calls to the model and to tools.

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
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from sunloom.agents.gateway_client import GatewayClient
from sunloom.agents.journal import Journal
from sunloom.agents.tools.result_encoder import describe_error
from sunloom.agents.tools.toolbox import Emit, Toolbox
from sunloom.errors import AgentError, SunloomError

R = TypeVar("R")
current_scope: ContextVar[TaskScope] = ContextVar("sunloom_task_scope")
_USAGE = ("prompt_tokens", "completion_tokens")


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
        failure: The first error of ours. Libraries wrap it; the runtime reports this one.
    """

    text: str
    toolbox: Toolbox
    gateway: GatewayClient
    journal: Journal
    emit: Emit
    max_steps: int
    steps: int = 0
    usage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_USAGE, 0))
    failure: SunloomError | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _pending: set[Future[Any]] = field(default_factory=set)
    _closed: bool = False

    async def complete(self, body: bytes) -> httpx.Response:
        """One chat completion, journalled, counted and metered.

        Raises:
            AgentError: Too many steps, an error of the gateway, or a truncated answer.
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
            outcome = await self.journal.call_once(
                "model", json.loads(body), lambda _key: self._call_model(body)
            )
        except SunloomError as error:
            self.failure = self.failure or error
            raise
        reply = outcome.data
        # Replayed calls count, too: the sum is that of the whole task, not of the last attempt.
        for name in _USAGE:
            self.usage[name] += int((reply.get("usage") or {}).get(name) or 0)
        if not outcome.replayed:
            ms = round((time.perf_counter() - began) * 1000, 1)
            message = reply["choices"][0]["message"]
            calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
            event = {"step": step, "ms": ms, "tool_calls": calls, "usage": reply.get("usage")}
            await self.emit("model_call", event)
        return httpx.Response(200, json=reply)

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> str:
        """One tool call; returns the text that the model reads.

        Raises:
            AgentError: The task cannot continue.
        """
        self._check_open()
        try:
            return await self.toolbox.call(name, arguments)
        except SunloomError as error:
            self.failure = self.failure or error
            raise
        except Exception as error:
            # A library would show its text to the model, which would call the tool again.
            self.failure = self.failure or AgentError(
                f"The call of {name} could not be finished: {describe_error(error)}"
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

    async def _call_model(self, body: bytes) -> dict[str, Any]:
        reply: dict[str, Any] = (await self.gateway.complete(body)).json()
        # Raised inside the call, so the journal does not record it as finished.
        if reply["choices"][0].get("finish_reason") == "length":
            raise AgentError(
                "The model's answer was cut off at max_tokens.", "Raise the agent's max_tokens."
            )
        return reply

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
