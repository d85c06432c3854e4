"""``/llm/train`` and ``/llm/training``: fine-tuning as Ray jobs, with their progress and result."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.jobs import ENDED, job_client, job_result, job_state, submit_job
from sunloom.core.progress import read_progress
from sunloom.errors import ConflictError, JobError, NotFoundError, RequestError
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.auth.middleware import tenant_of

JOB = "llm_train"
# Paths, the database or the cluster would let a caller write wherever the server may.
ALLOWED = ("model", "data", "training", "lora", "evaluation", "output", "seed")
"""Parts of the recipe that a request may override; the others are the operator's."""
# Logged when a run starts: a job's only link to the folder with its progress.
_RUN = re.compile(r"run (\S+) writes to (\S+)")
_MAX_LOSSES = 1000


class TrainRequest(BaseModel):
    """A recipe in ``conf/llm`` and overrides of it."""

    # The name becomes part of a path: neither a slash nor a dot may lead out of conf/llm.
    recipe: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    overrides: dict[str, Any] = Field(default_factory=dict)


class TrainAccepted(BaseModel):
    """A started job and the URL of its status."""

    job_id: str
    status_url: str


def build_router(settings: Settings) -> APIRouter:
    """Routes of training jobs."""
    router = APIRouter(prefix="/llm", tags=["training"])
    requests = IdempotentRequests(open_database(settings))

    @router.post("/train", status_code=202)
    async def train(
        request: Request, body: TrainRequest, idempotency_key: IdempotencyKey = None
    ) -> TrainAccepted:
        """Start a training job."""
        metadata = {"tenant": tenant_of(request.scope), "recipe": body.recipe}

        async def produce() -> dict[str, Any]:
            job_id = await asyncio.to_thread(
                submit_job,
                settings,
                JOB,
                recipe=f"conf/llm/{body.recipe}.yaml",
                sets=assignments(body.overrides),
                metadata=metadata,
            )
            return {"job_id": job_id, "status_url": f"/llm/training/{job_id}"}

        answer = await requests.run_once(request, idempotency_key, body.model_dump(), produce)
        return TrainAccepted.model_validate(answer)

    # These routes are no coroutines: FastAPI runs them in threads, where the job server may block.
    @router.get("/training")
    def list_training() -> dict[str, Any]:
        """Training jobs, newest first."""
        jobs = [_summary(job) for job in _list_jobs(settings)]
        return {"jobs": sorted(jobs, key=lambda job: -(job["started_s"] or 0))}

    @router.get("/training/{job_id}")
    def show_training(job_id: str) -> dict[str, Any]:
        """Status, step, losses, tokens per second, time left and artifact of one job."""
        job = _find_job(settings, job_id)
        logs = str(job_client(settings).get_job_logs(job_id))
        outcome: dict[str, Any] = {"artifacts": {}, "metrics": {}, "error": None}
        if job_state(job).status in ENDED:
            try:
                result = job_result(logs)
            except JobError as error:
                outcome["error"] = error.message
            else:
                outcome = {name: getattr(result, name) for name in outcome}
        return _summary(job) | progress_of_log(logs) | outcome

    @router.post("/training/{job_id}/stop")
    def stop_training(job_id: str) -> dict[str, Any]:
        """Stop a job; its last checkpoint is kept."""
        status = job_state(_find_job(settings, job_id)).status
        if status in ENDED:
            raise ConflictError(f"Job {job_id} has ended already: {status}.")
        job_client(settings).stop_job(job_id)
        return _summary(_find_job(settings, job_id)) | {"stopping": True}

    @router.get("/training/{job_id}/logs", response_class=PlainTextResponse)
    def show_logs(job_id: str) -> str:
        """The log of a job."""
        _find_job(settings, job_id)
        return str(job_client(settings).get_job_logs(job_id))

    return router


def assignments(overrides: dict[str, Any]) -> list[str]:
    """``a.b=c`` for each override, nested or dotted.

    Raises:
        RequestError: A key may not be set over HTTP.
    """
    for key in overrides:
        if key.partition(".")[0] not in ALLOWED:
            raise RequestError(
                f"{key!r} cannot be set over HTTP.", f"What can: {', '.join(ALLOWED)}", key
            )
    # Assignments are parsed as YAML, of which JSON is a part: every value keeps its type.
    return [f"{key}={json.dumps(value)}" for key, value in _flatten(overrides)]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            items += _flatten(value, f"{dotted}.")
        else:
            items.append((dotted, value))
    return items


def _list_jobs(settings: Settings) -> list[Any]:
    # Jobs of another kind are hidden: these routes must not stop them or show their logs.
    return [job for job in job_client(settings).list_jobs() if job_state(job).name == JOB]


def _find_job(settings: Settings, job_id: str) -> Any:
    jobs = {str(job.submission_id): job for job in _list_jobs(settings)}
    if job_id not in jobs:
        raise NotFoundError(
            f"There is no job {job_id!r}.", known=list(jobs), name=job_id, param="job_id"
        )
    return jobs[job_id]


def progress_of_log(logs: str) -> dict[str, Any]:
    """Step, losses, tokens per second and time left, from the run folder that a log names."""
    run = _RUN.search(logs)
    if run is None:
        return {"run_id": None, "step": None, "loss_history": [], "eta_s": None}
    steps = read_progress(Path(run.group(2)))
    last = steps[-1] if steps else None
    # A long run has more steps than a plot can show.
    stride = max(1, len(steps) // _MAX_LOSSES)
    return {
        "run_id": run.group(1),
        "step": last and last.step,
        "steps": last and last.steps,
        "loss": last and last.loss,
        "loss_history": [
            {"step": step.step, "loss": step.loss}
            for step in steps[::stride]
            if step.loss is not None
        ],
        "tokens_per_second": last and last.tokens_per_second,
        "eta_s": last and last.time_left_s,
    }


def _summary(job: Any) -> dict[str, Any]:
    state = job_state(job)
    seconds = (state.ended_s or time.time()) - state.started_s if state.started_s else None
    return {
        "job_id": state.id,
        "status": state.status.lower(),
        "recipe": (job.metadata or {}).get("recipe"),
        "started_s": state.started_s,
        "seconds": None if seconds is None else round(seconds, 1),
    }
