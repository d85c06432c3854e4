"""``sunloom WORDS…``: in a forked process, or in the test's own where no JSON is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import start


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_here(words: Sequence[str], capfd: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command in this process and working directory; logs go where pytest's do."""
    from sunloom.cli.main import run

    with pytest.raises(SystemExit) as ended:
        run(words)
    return Outcome(int(ended.value.code or 0), *capfd.readouterr())


def run_forked(
    words: Sequence[str], cwd: Path, environ: Mapping[str, str], folder: Path
) -> Outcome:
    """Run a command in a process of its own.

    Args:
        words: Arguments of the command line.
        cwd: Working directory.
        environ: The whole environment.
        folder: Where the files for what it prints go.
    """
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    process = start(_run, list(words), cwd, environ, out, err)
    process.join(timeout=300)
    assert process.exitcode is not None
    return Outcome(process.exitcode, out.read_text(), err.read_text())


def _run(words: list[str], cwd: Path, environ: Mapping[str, str], out: Path, err: Path) -> None:
    from sunloom.cli.main import run

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    run(words)
