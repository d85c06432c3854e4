"""Turns of tenants at reading prompts, which takes the longest of all that an engine's step does.

vLLM reads as many prompts in one step as fit, and whoever waits for a single token waits for them.
A tenant's prompts that are read in one step are bounded here, whatever their number and length: the
engine reads at most so many tokens of one prompt in a step, and a prompt enters the engine when
those of its tenant leave room for that.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Protocol

from sunloom.serving.apps.llm.fair_queue import FairQueue, Owner

_owner: ContextVar[Owner] = ContextVar("owner")
# Of the server's own requests.
_NOBODY = Owner("", "")


class PromptState(Protocol):
    """One sequence in the engine; vLLM's ``RequestState``."""

    is_prefilling: bool


def ask_for(owner: Owner) -> None:
    """Make the prompts that this task and its own tasks send those of ``owner``."""
    _owner.set(owner)


class PromptTurns:
    """Lets prompts into the engine, and remembers whose are read.

    Args:
        tokens: Of one prompt, and of one tenant's prompts, in one step.
        capacity: Tokens of all tenants' prompts in one step.
    """

    def __init__(self, tokens: int, capacity: int) -> None:
        self._queue = FairQueue(tokens, capacity)
        self._read: dict[str, tuple[Owner, int]] = {}

    async def enter(self, request_id: str, tokens: int) -> None:
        """Wait until the engine may begin with a prompt of so many tokens."""
        owner = _owner.get(_NOBODY)
        self._read[request_id] = owner, await self._queue.take(owner, max(1, tokens))

    def leave(self, request_id: str) -> None:
        """Let the next ones in behind a prompt that was read, or that no longer is to be."""
        if (entry := self._read.pop(request_id, None)) is not None:
            self._queue.give_back(*entry)

    def leave_behind(self, states: dict[str, PromptState]) -> None:
        """Let the next ones in behind all prompts that the engine has read, or has no more."""
        for request_id in list(self._read):
            state = states.get(request_id)
            if state is None or not state.is_prefilling:
                self.leave(request_id)


def read_prompts_in_turn(engine: Any, tokens: int) -> None:
    """Let the prompts of vLLM's ``AsyncLLM`` take turns from here on."""
    scheduler, processor = engine.vllm_config.scheduler_config, engine.output_processor
    turns = PromptTurns(tokens, scheduler.max_num_batched_tokens - scheduler.max_num_seqs)
    add_request, states = engine._add_request, processor.request_states
    process_outputs, abort_requests = processor.process_outputs, processor.abort_requests

    async def add_in_turn(request: Any, prompt: Any, parent: Any, index: int, queue: Any) -> None:
        try:
            await turns.enter(request.request_id, len(request.prompt_token_ids or ()))
        except asyncio.CancelledError:
            if index:
                # The other answers are in the engine, where vLLM forgets them until all are.
                await engine.abort(queue.request_id, internal=True)
            raise
        try:
            await add_request(request, prompt, parent, index, queue)
        except BaseException:
            turns.leave(request.request_id)
            raise

    def process_and_leave(*outputs: Any, **more: Any) -> Any:
        result = process_outputs(*outputs, **more)
        turns.leave_behind(states)
        return result

    def abort_and_leave(*requests: Any, **more: Any) -> Any:
        result = abort_requests(*requests, **more)
        turns.leave_behind(states)
        return result

    engine._add_request = add_in_turn
    processor.process_outputs = process_and_leave
    processor.abort_requests = abort_and_leave
