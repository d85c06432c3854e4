"""A preload of the engine core's process on CPU: importing it lets one thread compile grammars.

vLLM asks for eight, and xgrammar's threads know no priority: beside eight of them an engine's step
has a fifth of two cores, and everybody waits whose answer is not constrained at all.
"""

from __future__ import annotations

from typing import Any

import xgrammar

_initialize = xgrammar.GrammarCompiler.__init__


def _initialize_with_one_thread(compiler: Any, tokenizer_info: Any, **options: Any) -> None:
    _initialize(compiler, tokenizer_info, **options | {"max_threads": 1})


xgrammar.GrammarCompiler.__init__ = _initialize_with_one_thread  # type: ignore[method-assign, assignment]
