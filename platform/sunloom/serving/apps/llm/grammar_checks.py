"""Checks of JSON schemas and other grammars for answers: off the event loop, each grammar once.

vLLM converts a grammar where it reads the request, and everybody waits who has a stream of that
replica. The conversion runs outside of Python's lock, so that a thread of its own is enough.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from sunloom.core.caching import TtlCache

_FIELDS = ("json", "regex", "choice", "grammar", "structural_tag")
_KEPT_S = 3600.0
# A text of 16 kB for some.
_MOST_KEPT = 512


class Grammar(Protocol):
    """What an answer must look like, in one of its fields; vLLM's ``StructuredOutputsParams``."""

    json: Any
    regex: str | None
    choice: list[str] | None
    grammar: str | None
    structural_tag: str | None


class GrammarChecks:
    """Runs a check in one thread, and remembers the grammars that have passed.

    Args:
        check: Raises for a grammar that cannot be followed. It may write its own form of
            ``choice`` and ``grammar`` over the client's.
    """

    def __init__(self, check: Callable[[Grammar], None]) -> None:
        self._check = check
        self._thread = ThreadPoolExecutor(1, "grammar_check")
        # The check's own form of (choice, grammar), by the hash of the client's.
        self._passed = TtlCache[bytes, tuple[Any, Any]](_KEPT_S, _MOST_KEPT)

    async def run(self, grammar: Grammar) -> None:
        """Check a grammar, unless it has passed before.

        Raises:
            Exception: What the check raises.
        """

        async def check() -> tuple[Any, Any]:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._check, grammar)
            return grammar.choice, grammar.grammar

        text = json.dumps([getattr(grammar, field) for field in _FIELDS])
        digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
        grammar.choice, grammar.grammar = await self._passed.get_or_await(digest, check)


def check_in_thread(engine: Any) -> None:
    """Let vLLM's ``AsyncLLM`` check grammars before it adds a request, and not while it does."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.structured_output import backend_xgrammar

    validate = backend_xgrammar.validate_xgrammar_grammar
    checks = GrammarChecks(lambda grammar: validate(SamplingParams(structured_outputs=grammar)))
    add_request = engine.add_request

    async def add_checked(
        request_id: str, prompt: Any, params: Any, *more: Any, **by_name: Any
    ) -> Any:
        # Pooling models have no answers.
        if (grammar := getattr(params, "structured_outputs", None)) is not None:
            await checks.run(grammar)
        return await add_request(request_id, prompt, params, *more, **by_name)

    engine.add_request = add_checked
    # Both the reader of requests and ``add_request`` look it up when they call it, on the loop.
    backend_xgrammar.validate_xgrammar_grammar = _leave_to_the_thread


def _leave_to_the_thread(params: Any) -> None:
    """Stands for vLLM's own check."""
