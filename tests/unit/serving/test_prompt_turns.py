"""Turns at reading prompts, on an engine that reads one step at a time when a test says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sunloom.serving.apps.llm.fair_queue import Owner
from sunloom.serving.apps.llm.prompt_turns import ask_for, read_prompts_in_turn


@dataclass
class State:
    """vLLM's ``RequestState``: a prompt that is read or has been read."""

    left: int
    is_prefilling: bool = True


@dataclass
class Request:
    """vLLM's ``EngineCoreRequest``."""

    request_id: str
    prompt_token_ids: list[int]


@dataclass
class Processor:
    """vLLM's ``OutputProcessor``."""

    request_states: dict[str, State] = field(default_factory=dict)

    def process_outputs(self, outputs: Any) -> str:
        return "processed"

    def abort_requests(self, requests: list[str], internal: bool) -> list[str]:
        ended = [name for name in self.request_states if name.startswith(tuple(requests))]
        for name in ended:
            del self.request_states[name]
        return ended


class Engine:
    """vLLM's ``AsyncLLM``, which reads at most ``tokens`` of each prompt in a step."""

    def __init__(self, tokens: int, capacity: int) -> None:
        self.tokens = tokens
        self.output_processor = Processor()
        self.vllm_config = self.scheduler_config = self
        self.max_num_batched_tokens, self.max_num_seqs = capacity + 8, 8
        read_prompts_in_turn(self, tokens)

    async def _add_request(
        self, request: Request, prompt: Any, parent: Any, index: int, queue: Any
    ) -> None:
        state = State(len(request.prompt_token_ids))
        self.output_processor.request_states[request.request_id] = state
        await asyncio.sleep(0)

    async def abort(self, request_id: str, internal: bool) -> None:
        self.output_processor.abort_requests([request_id], internal)

    async def step(self) -> dict[str, int]:
        """Tokens that are read of each prompt."""
        read = {}
        for name, state in self.output_processor.request_states.items():
            if state.is_prefilling:
                read[name] = min(state.left, self.tokens)
                state.left -= read[name]
                state.is_prefilling = state.left > 0
        assert self.output_processor.process_outputs([]) == "processed"
        await settle()
        return read


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def send(engine: Engine, tenant: str, *sizes: int) -> asyncio.Task[None]:
    """Send prompts of one request, one after the other, as vLLM does with several answers."""

    async def add() -> None:
        ask_for(Owner(tenant, tenant))
        for index, size in enumerate(sizes):
            request = Request(f"{tenant}{index}", [0] * size)
            await engine._add_request(request, None, None, index, Request(tenant, []))

    task = asyncio.create_task(add())
    await settle()
    return task


def test_a_step_reads_a_bounded_part_of_a_tenants_prompts() -> None:
    async def run() -> list[dict[str, int]]:
        engine = Engine(tokens=10, capacity=100)
        await send(engine, "a", 25, 25, 4)
        steps = [await engine.step()]
        await send(engine, "b", 3)
        return steps + [await engine.step() for _ in range(6)]

    assert asyncio.run(run()) == [
        {"a0": 10},
        # Another tenant's prompt is read in the step that follows.
        {"a0": 10, "b0": 3},
        {"a0": 5},
        {"a1": 10},
        {"a1": 10},
        {"a1": 5},
        {"a2": 4},
    ]


def test_short_prompts_are_read_together() -> None:
    async def run() -> list[dict[str, int]]:
        engine = Engine(tokens=10, capacity=100)
        await send(engine, "a", 3, 3, 3, 3)
        return [await engine.step(), await engine.step()]

    assert asyncio.run(run()) == [{"a0": 3, "a1": 3, "a2": 3}, {"a3": 3}]


def test_a_step_has_room_for_those_whose_turn_it_is() -> None:
    async def run() -> list[dict[str, int]]:
        engine = Engine(tokens=10, capacity=20)
        for tenant in "abc":
            await send(engine, tenant, 20)
        return [await engine.step() for _ in range(4)]

    both = {"a0": 10, "b0": 10}
    assert asyncio.run(run()) == [both, both, {"c0": 10}, {"c0": 10}]


def test_who_leaves_takes_all_answers_along_and_lets_others_in() -> None:
    async def run() -> list[str]:
        engine = Engine(tokens=10, capacity=100)
        leaving = await send(engine, "a", 4, 20)
        assert list(engine.output_processor.request_states) == ["a0"]
        ask_for(Owner("a", "other"))
        more = engine._add_request(Request("later", [0] * 10), None, None, 0, None)
        later = asyncio.create_task(more)
        await settle()
        # While its second answer waits for its turn.
        leaving.cancel()
        await asyncio.wait({leaving, later})
        return list(engine.output_processor.request_states)

    assert asyncio.run(run()) == ["later"]
