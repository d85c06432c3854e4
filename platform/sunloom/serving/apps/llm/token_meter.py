"""Token counts of the engine's requests, read from the engine as they are generated.

A response says only at its end what it cost, and to a client that has left it says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeVar

_meter: ContextVar[TokenMeter | None] = ContextVar("token_meter", default=None)
T = TypeVar("T")


class CountedSequence(Protocol):
    """One sequence of the engine; vLLM's ``RequestState``."""

    prompt_len: int
    detokenizer: Any


class TokenMeter:
    """Counts the tokens of everything that one HTTP request asks of the engine."""

    def __init__(self) -> None:
        self._prompts: list[CountedSequence] = []
        self._sequences: list[CountedSequence] = []

    def add(self, sequence: CountedSequence, index: int) -> None:
        """Count a sequence; those of one prompt have ascending indices."""
        if index == 0:
            self._prompts.append(sequence)
        self._sequences.append(sequence)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once however many answers it has."""
        return sum(sequence.prompt_len for sequence in self._prompts)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated until now; 0 for pooling models."""
        return sum(
            sequence.detokenizer.num_output_tokens()
            for sequence in self._sequences
            if sequence.detokenizer is not None
        )


def create_metered_task(meter: TokenMeter, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose requests to the engine, and those of tasks that it starts, are counted."""
    context = copy_context()
    context.run(_meter.set, meter)
    return asyncio.create_task(work, context=context)


def count_sequence(sequence: CountedSequence, index: int) -> None:
    """Count a sequence that is added to the engine within a metered task."""
    if (meter := _meter.get()) is not None:
        meter.add(sequence, index)


def watch_engine(engine: Any) -> None:
    """Count the sequences of vLLM's ``AsyncLLM`` from here on."""
    processor = engine.output_processor
    add_request = processor.add_request

    def add_counted(
        request: Any, prompt: Any, parent: Any = None, index: int = 0, *more: Any, **options: Any
    ) -> None:
        add_request(request, prompt, parent, index, *more, **options)
        count_sequence(processor.request_states[request.request_id], index)

    processor.add_request = add_counted
