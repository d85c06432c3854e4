"""Commands as processes of their own, on a state folder of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Outcome, run_forked

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
        return run_forked(words, cwd, inherited | own | environ, tmp_path)

    return run
