"""Training jobs as the gateway shows them: state, progress, result."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from sunloom.core.host_paths import hide_paths_in
from sunloom.core.jobs import ENDED, job_result, job_state
from sunloom.core.progress import read_progress
from sunloom.errors import JobError

# Logged when a run starts: a job's only link to the folder with its progress.
_RUN = re.compile(r"run \S+ writes to (\S+)")
_MAX_LOSSES = 1000


def run_folder(logs: str) -> Path | None:
    """The folder of a job's run, where its log names one yet; the run's id is its name."""
    run = _RUN.search(logs)
    return Path(run.group(1)) if run else None


def progress_of_log(logs: str) -> dict[str, Any]:
    """Step, losses, tokens per second and time left, from the run folder that a log names."""
    folder = run_folder(logs)
    if folder is None:
        return {"run_id": None, "step": None, "loss_history": [], "eta_s": None}
    steps = read_progress(folder)
    last = steps[-1] if steps else None
    # A long run has more steps than a plot can show.
    stride = max(1, len(steps) // _MAX_LOSSES)
    return {
        "run_id": folder.name,
        "step": last and last.step,
        "steps": last and last.steps,
        "loss": last and last.loss,
        "loss_history": [
            {"step": step.step, "loss": step.loss}
            for step in steps[::stride]
            if step.loss is not None
        ],
        "learning_rate": last and last.learning_rate,
        "gradient_norm": last and last.gradient_norm,
        "figures": last.figures if last else {},
        "tokens_per_second": last and last.tokens_per_second,
        "mfu": last and last.mfu,
        "eta_s": last and last.time_left_s,
    }


def outcome_of_log(job: Any, logs: str) -> dict[str, Any]:
    """Artifacts, metrics and error of a job; empty while it runs."""
    outcome: dict[str, Any] = {"artifacts": {}, "metrics": {}, "error": None}
    if job_state(job).status in ENDED:
        try:
            result = job_result(logs)
        except JobError as error:
            outcome["error"] = error.message
        else:
            outcome = {name: getattr(result, name) for name in outcome}
    shown: dict[str, Any] = hide_paths_in(outcome)
    return shown


def summarize_job(job: Any) -> dict[str, Any]:
    """A job's id, status, recipe and times."""
    state = job_state(job)
    seconds = (state.ended_s or time.time()) - state.started_s if state.started_s else None
    return {
        "job_id": state.id,
        "status": state.status.lower(),
        "recipe": (job.metadata or {}).get("recipe"),
        "started_s": state.started_s,
        "seconds": None if seconds is None else round(seconds, 1),
    }
