"""One folder and one record for each execution of a recipe."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import sunloom
from sunloom.config import Settings, save_resolved
from sunloom.core.database import utc_now
from sunloom.core.files import write_atomic
from sunloom.core.trackers import read_tracked

Status = Literal["running", "succeeded", "failed"]


@dataclass(frozen=True)
class RunResult:
    """Result of an execution: the last line of a job's log.

    Attributes:
        run_id: None where the configuration could not be loaded.
        status: ``succeeded`` or ``failed``.
        artifacts: Name to path, URI or ``name@version``.
        metrics: Name to value.
        error: What went wrong.
    """

    run_id: str | None
    status: Status
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    def to_json(self) -> str:
        """One line; ``error`` only where there is one."""
        plain = asdict(self)
        if self.error is None:
            del plain["error"]
        return json.dumps(plain, default=str)

    @classmethod
    def from_json(cls, text: str) -> RunResult:
        """Read ``to_json``'s line.

        Raises:
            ValueError: It is not valid JSON.
        """
        plain = json.loads(text)
        return cls(
            run_id=plain.get("run_id"),
            status=plain.get("status"),
            artifacts=plain.get("artifacts", {}),
            metrics=plain.get("metrics", {}),
            error=plain.get("error"),
        )


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
    ) -> RunResult:
        """Write ``run.json``: the result and where it was computed."""
        result = RunResult(
            run_id=self.run_id,
            status=status,
            artifacts=dict(artifacts or {}),
            metrics=dict(metrics or {}),
        )
        ended = utc_now()
        # Through JSON: metrics and artifacts may hold paths and dates.
        record = json.loads(result.to_json()) | {
            "kind": self.kind,
            "started_at": self.started_at.isoformat(),
            "seconds": (ended - self.started_at).total_seconds(),
            "sunloom": sunloom.__version__,
            "python": platform.python_version(),
            "trackers": read_tracked(self.directory),
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        }
        write_atomic(self.directory / "run.json", json.dumps(record, indent=2))
        _unfinished.pop(self.run_id, None)
        return result


# Runs of this process that are not finished, newest last.
_unfinished: dict[str, Run] = {}


def start_run(settings: Settings, kind: str, config: Settings | None = None) -> Run:
    """Make the run's folder and save the resolved configuration in it."""
    started = utc_now()
    run_id = f"{kind}-{started:%Y%m%dT%H%M%S}-{uuid4().hex[:4]}"
    directory = (settings.paths.outputs / "runs" / run_id).absolute()
    # Fails where the folder exists: two runs never share one.
    directory.mkdir(mode=0o700, parents=True)
    save_resolved(config or settings, directory)
    run = Run(run_id, directory, kind, started)
    _unfinished[run_id] = run
    return run


@contextmanager
def run_of_this_process(settings: Settings, kind: str) -> Iterator[Run]:
    """The unfinished run of this kind in this process, else a new one that ends with the block.

    So a library function that a job calls writes into the folder that the job's log names, and
    gets a folder of its own when it is called directly.
    """
    unfinished = [run for run in _unfinished.values() if run.kind == kind]
    if unfinished:
        yield unfinished[-1]
        return
    run = start_run(settings, kind, settings)
    try:
        yield run
    # Ctrl-C and SIGTERM, which arrive as KeyboardInterrupt, also end the run as failed.
    except BaseException:
        run.finish("failed")
        raise
    run.finish("succeeded")
