"""One folder and one record for each execution of a recipe."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import sunloom
from sunloom.config import Settings, save_resolved
from sunloom.core.database import utc_now
from sunloom.core.files import write_atomic

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
        ended = utc_now()
        record = result | {
            "kind": self.kind,
            "started_at": self.started_at.isoformat(),
            "seconds": (ended - self.started_at).total_seconds(),
            "sunloom": sunloom.__version__,
            "python": platform.python_version(),
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        }
        write_atomic(self.directory / "run.json", json.dumps(record, indent=2, default=str))
        _unfinished.pop(self.run_id, None)
        return result


# Runs of this process that have begun and not finished, newest last.
_unfinished: dict[str, Run] = {}


def start_run(settings: Settings, kind: str, config: Settings | None = None) -> Run:
    """Make the run's folder and save the resolved configuration in it."""
    started = utc_now()
    run_id = f"{kind}-{started:%Y%m%dT%H%M%S}-{uuid4().hex[:4]}"
    directory = (settings.paths.outputs / "runs" / run_id).absolute()
    directory.mkdir(parents=True)
    save_resolved(config or settings, directory)
    run = Run(run_id, directory, kind, started)
    _unfinished[run_id] = run
    return run


@contextmanager
def run_of_this_process(settings: Settings, kind: str) -> Iterator[Run]:
    """The run of this kind that a job's frame has begun, else a new one that ends with the block.

    So a library function writes into the folder that the job's log names, and makes a folder of
    its own when it is called directly.
    """
    begun = [run for run in _unfinished.values() if run.kind == kind]
    if begun:
        yield begun[-1]
        return
    run = start_run(settings, kind, settings)
    try:
        yield run
    except BaseException:
        run.finish("failed")
        raise
    run.finish("succeeded")
