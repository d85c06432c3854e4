"""One folder and one record for each execution of a recipe."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import sunloom
from sunloom.config import Settings, save_resolved
from sunloom.core.artifacts import write_atomic
from sunloom.core.database import now

Status = Literal["running", "succeeded", "failed"]


@dataclass(frozen=True)
class Run:
    """One execution.

    Attributes:
        run_id: Kind, UTC time and four random letters: unique, sortable.
        directory: ``<outputs>/runs/<run_id>``, with the resolved configuration and ``run.json``.
    """

    run_id: str
    directory: Path
    kind: str
    started_at: datetime

    def finish(
        self,
        status: Status,
        metrics: Mapping[str, Any] | None = None,
        artifacts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the record; it is also the last line of a job's log."""
        result = {
            "run_id": self.run_id,
            "status": status,
            "artifacts": dict(artifacts or {}),
            "metrics": dict(metrics or {}),
        }
        ended = now()
        record = result | {
            "kind": self.kind,
            "started_at": self.started_at.isoformat(),
            "seconds": (ended - self.started_at).total_seconds(),
            "sunloom": sunloom.__version__,
            "python": platform.python_version(),
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        }
        write_atomic(self.directory / "run.json", json.dumps(record, indent=2, default=str))
        return result


def start_run(settings: Settings, kind: str, config: Settings | None = None) -> Run:
    """Make the run's folder and save the resolved configuration in it."""
    started = now()
    run_id = f"{kind}-{started:%Y%m%dT%H%M%S}-{uuid4().hex[:4]}"
    directory = (settings.paths.outputs / "runs" / run_id).absolute()
    directory.mkdir(parents=True)
    save_resolved(config or settings, directory)
    return Run(run_id, directory, kind, started)
