"""Commands as processes of their own, on a state folder of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import run_command, start


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(tmp_path: Path, project_root: Path) -> Cli:
    """Run ``sunloom WORDS…`` in the project's root; state and outputs lie in the test's folder."""

    def run(*words: str, cwd: Path = project_root, **environ: str) -> Outcome:
        own = {
            "SUNLOOM__PATHS__STATE": str(tmp_path / "state"),
            "SUNLOOM__PATHS__OUTPUTS": str(tmp_path / "outputs"),
            "PYTHONPATH": str(project_root / "platform"),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SUNLOOM", "RAY_"))}
        out, err = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
        process = start(run_command, [*words], cwd, inherited | own | environ, out, err)
        process.join(timeout=300)
        assert process.exitcode is not None
        return Outcome(process.exitcode, out.read_text(), err.read_text())

    return run
