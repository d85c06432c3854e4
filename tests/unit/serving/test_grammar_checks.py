"""Checks of grammars beside the event loop; the converter is xgrammar's, which vLLM calls."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

from sunloom.config.request_limits import LlmLimits
from sunloom.errors import RequestError
from sunloom.serving.apps.llm.grammar_checks import GrammarChecks
from sunloom.serving.apps.llm.request_checks import CHAT, check_request

PRELOADED = "sunloom.serving.apps.llm.one_compiler_thread"


@dataclass
class Constraint:
    """vLLM's ``StructuredOutputsParams``."""

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: str | None = None


def schema_of(levels: int, properties: int) -> dict[str, Any]:
    """A schema that is so deep, whose objects have so many properties that may be left out."""
    schema: dict[str, Any] = {"type": "string"}
    for level in range(levels):
        others = {f"{'longer' * 6}_{level}_{index}": {} for index in range(properties - 1)}
        schema = {"type": "object", "properties": {"a": schema, **others}}
    return schema


def check_size(schema: Any) -> None:
    message = {"role": "user", "content": "a"}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    request = {"messages": [message], "response_format": form}
    check_request(CHAT, request, LlmLimits(), max_model_len=1024)


def test_the_loop_goes_on_while_the_largest_schema_is_checked() -> None:
    from xgrammar import Grammar

    schema = schema_of(levels=14, properties=17)
    check_size(schema)
    with pytest.raises(RequestError):
        check_size(schema_of(levels=15, properties=17))
    with pytest.raises(RequestError):
        check_size(schema_of(levels=14, properties=18))
    seconds: list[float] = []

    def convert(constraint: Constraint) -> None:
        began = time.perf_counter()
        Grammar.from_json_schema(constraint.json)
        seconds.append(time.perf_counter() - began)

    async def run() -> tuple[int, float]:
        checks = GrammarChecks(convert)
        check = asyncio.create_task(checks.run(Constraint(json=schema)))
        ticks, began = 0, time.thread_time()
        while not check.done():
            await asyncio.sleep(0.001)
            ticks += 1
        used_s = time.thread_time() - began
        # The same once more, read from another body.
        await checks.run(Constraint(json=schema_of(levels=14, properties=17)))
        return ticks, used_s

    ticks, used_s = asyncio.run(run())
    assert len(seconds) == 1
    # Time of this thread alone, which a busy machine does not lengthen.
    assert used_s < 0.1
    assert ticks >= 3


def test_the_loop_goes_on_whatever_the_check_does() -> None:
    async def run() -> None:
        loop, has_ticked = asyncio.get_running_loop(), asyncio.Event()

        def wait_for_the_loop(constraint: Constraint) -> None:
            # Were it on the loop, this would never end.
            asyncio.run_coroutine_threadsafe(has_ticked.wait(), loop).result(10)

        check = asyncio.create_task(GrammarChecks(wait_for_the_loop).run(Constraint(regex="a+")))
        await asyncio.sleep(0.001)
        has_ticked.set()
        await check

    asyncio.run(run())


def test_what_the_check_writes_is_kept_and_what_it_refuses_is_not() -> None:
    seen: list[Constraint] = []

    def check(constraint: Constraint) -> None:
        seen.append(constraint)
        if constraint.regex:
            raise ValueError("no such regex")
        # As vLLM does with lists of choices.
        constraint.choice, constraint.grammar = None, "root ::= 'a' | 'b'"

    async def run() -> None:
        checks = GrammarChecks(check)
        for _ in range(3):
            choice = Constraint(choice=["a", "b"])
            await checks.run(choice)
            assert (choice.choice, choice.grammar) == (None, "root ::= 'a' | 'b'")
        assert len(seen) == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="no such regex"):
                await checks.run(Constraint(regex="("))
        assert len(seen) == 3

    asyncio.run(run())


def test_one_thread_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgrammar

    # Restored afterwards: the import is for the engine core's process.
    monkeypatch.setattr(xgrammar.GrammarCompiler, "__init__", xgrammar.GrammarCompiler.__init__)
    monkeypatch.delitem(sys.modules, PRELOADED, raising=False)
    importlib.import_module(PRELOADED)
    threads: list[int] = []

    def record(tokenizer_info: Any, max_threads: int, *more: Any) -> None:
        threads.append(max_threads)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(xgrammar.compiler._core, "GrammarCompiler", record)
    info = xgrammar.TokenizerInfo(["a", "b"], stop_token_ids=[0])
    with pytest.raises(RuntimeError, match="no compiler"):
        # As vLLM calls it.
        xgrammar.GrammarCompiler(info, max_threads=8, cache_enabled=True, cache_limit_bytes=1 << 20)
    assert threads == [1]
