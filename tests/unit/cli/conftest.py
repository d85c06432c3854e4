"""The real script as a subprocess, on a state folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


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
        done = subprocess.run(
            [sys.executable, "-c", "from sunloom.cli.main import run; run()", *words],
            cwd=cwd,
            env=inherited | own | environ,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
