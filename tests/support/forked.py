"""Processes forked from a server that has imported the house already: they start at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import pytest

# A new interpreter would spend seconds on these imports.
_IMPORTED = ["killable", "sunloom.cli.main", "sunloom.core.model_registry", "httpx"]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        # The server of Python 3.11 does not take over sys.path, and passes over what it cannot
        # import.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ensure_running()
    return context


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that does a module's work."""
    process = _context().Process(target=work, args=arguments)
    process.start()
    return process


def run_command(
    words: list[str], cwd: Path, environ: Mapping[str, str], out: Path, err: Path
) -> None:
    """``sunloom WORDS…`` as a process of its own, to be started with ``start``.

    Args:
        words: Arguments of the command line.
        cwd: Working directory.
        environ: The whole environment.
        out: File for standard output.
        err: File for standard error.
    """
    from sunloom.cli.main import run

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    run(words)
