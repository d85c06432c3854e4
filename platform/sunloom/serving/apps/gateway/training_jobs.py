"""Training jobs on Ray as the gateway shows them: state, progress, result."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sunloom.config import Settings
from sunloom.core.jobs import ENDED, job_client, job_result
from sunloom.core.progress import StepProgress, read_progress
from sunloom.errors import ConflictError, JobError, NotFoundError

# Logged when a run starts: a job's only link to the folder with its progress.
_RUN = re.compile(r"run (\S+) writes to (\S+)")
_MAX_LOSSES = 1000


class TrainingJobs:
    """Ray jobs of one kind.

    Args:
        settings: Where the job server is.
        name: Module in ``jobs/`` that they run.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name

    def summaries(self) -> list[dict[str, Any]]:
        """Jobs of this kind, newest first."""
        jobs = [job for job in job_client(self._settings).list_jobs() if self._is_of_kind(job)]
        return sorted((_summary(job) for job in jobs), key=lambda job: -(job["started_s"] or 0))

    def show(self, job_id: str) -> dict[str, Any]:
        """State, progress and result of one job.

        Raises:
            NotFoundError: There is no such job; lists the known ones.
        """
        job = self._find(job_id)
        logs = str(job_client(self._settings).get_job_logs(job_id))
        return _summary(job) | progress_of_log(logs) | _outcome(job, logs)

    def logs(self, job_id: str) -> str:
        """The log of a job."""
        self._find(job_id)
        return str(job_client(self._settings).get_job_logs(job_id))

    def stop(self, job_id: str) -> dict[str, Any]:
        """Stop a job.

        Raises:
            ConflictError: It has ended.
        """
        job = self._find(job_id)
        if _state(job) in ENDED:
            raise ConflictError(f"Job {job_id} has ended already: {_state(job)}.")
        job_client(self._settings).stop_job(job_id)
        return _summary(self._find(job_id)) | {"stopping": True}

    def _find(self, job_id: str) -> Any:
        jobs = {str(job.submission_id): job for job in job_client(self._settings).list_jobs()}
        # Jobs of another kind are hidden: these routes must not stop them or show their logs.
        if job_id not in jobs or not self._is_of_kind(jobs[job_id]):
            known = [name for name, job in jobs.items() if self._is_of_kind(job)]
            raise NotFoundError(
                f"There is no job {job_id!r}.", known=known, name=job_id, param="job_id"
            )
        return jobs[job_id]

    def _is_of_kind(self, job: Any) -> bool:
        return (job.metadata or {}).get("sunloom_job") == self._name


def progress_of_log(logs: str) -> dict[str, Any]:
    """Step, losses, tokens per second and time left, from the run folder that a log names."""
    run = _RUN.search(logs)
    if run is None:
        return {"run_id": None, "step": None, "loss_history": [], "eta_s": None}
    steps = read_progress(Path(run.group(2)))
    last = steps[-1] if steps else None
    return {
        "run_id": run.group(1),
        "step": last and last.step,
        "steps": last and last.steps,
        "loss": last and last.loss,
        "loss_history": _loss_history(steps),
        "tokens_per_second": last and last.tokens_per_second,
        "eta_s": last and last.time_left_s,
    }


def _loss_history(steps: Sequence[StepProgress]) -> list[dict[str, Any]]:
    # A long run has more steps than a plot can show.
    stride = max(1, len(steps) // _MAX_LOSSES)
    return [
        {"step": step.step, "loss": step.loss} for step in steps[::stride] if step.loss is not None
    ]


def _outcome(job: Any, logs: str) -> dict[str, Any]:
    if _state(job) not in ENDED:
        return {"artifacts": {}, "metrics": {}, "error": None}
    try:
        result = job_result(logs)
    except JobError as error:
        return {"artifacts": {}, "metrics": {}, "error": error.message}
    return {
        "artifacts": result.artifacts,
        "metrics": result.metrics,
        "error": result.error,
    }


def _summary(job: Any) -> dict[str, Any]:
    # Ray's job server gives milliseconds since the epoch.
    started = job.start_time / 1000 if job.start_time else None
    ended = job.end_time / 1000 if job.end_time else None
    return {
        "job_id": job.submission_id,
        "status": _state(job).lower(),
        "recipe": (job.metadata or {}).get("recipe"),
        "started_s": started,
        "seconds": round((ended or time.time()) - started, 1) if started else None,
    }


def _state(job: Any) -> str:
    return str(getattr(job.status, "value", job.status))
