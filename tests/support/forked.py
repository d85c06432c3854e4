"""Processes forked from a server that has imported the house already: they start at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from typing import Any

import pytest

# A new interpreter would spend seconds on these imports.
_IMPORTED = ["killable", "sunloom.cli.main", "sunloom.core.model_registry", "httpx"]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that does a module's work."""
    process = _context().Process(target=work, args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        # The server of Python 3.11 does not take over sys.path, and passes over what it cannot
        # import. It may have ended with what else this process had started, and starts anew.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ensure_running()
    process.start()
    return process
