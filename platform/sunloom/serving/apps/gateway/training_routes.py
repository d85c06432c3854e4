"""``/llm/train`` and ``/llm/training``: fine-tuning as Ray jobs, with their progress and result."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.host_paths import hide_paths, hide_paths_in
from sunloom.core.jobs import (
    ENDED,
    job_client,
    job_result,
    job_state,
    submit_job,
    withheld_secrets,
)
from sunloom.core.progress import read_progress
from sunloom.errors import ConflictError, JobError, NotFoundError, RateLimitError
from sunloom.serving.apps.fastapi_app import ClosedBody
from sunloom.serving.apps.gateway.training_request import plan_training
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.asgi import Scope
from sunloom.serving.auth.middleware import tenant_of
from sunloom.serving.auth.tenants import OPERATOR, may_change, owner_for, reader_for

JOB = "llm_train"
# Logged when a run starts: a job's only link to the folder with its progress.
_RUN = re.compile(r"run (\S+) writes to (\S+)")
_MAX_LOSSES = 1000


class TrainRequest(ClosedBody):
    """A recipe in ``conf/llm`` and overrides of it."""

    recipe: str = Field(max_length=100)
    overrides: dict[str, Any] = Field(default_factory=dict)


class TrainAccepted(BaseModel):
    """A started job and the URL of its status."""

    job_id: str
    status_url: str


def build_router(settings: Settings) -> APIRouter:
    """Routes of training jobs; a tenant sees its own, the scope ``admin`` every tenant's."""
    router = APIRouter(prefix="/llm", tags=["training"])
    requests = IdempotentRequests(open_database(settings))
    # Counted and submitted by one request at a time, so that many at once cannot pass the bound.
    submitting = asyncio.Lock()

    @router.post("/train", status_code=202)
    async def train(
        request: Request, body: TrainRequest, idempotency_key: IdempotencyKey = None
    ) -> TrainAccepted:
        """Start a training job."""
        scope = request.scope
        tenant, owner, reader = tenant_of(scope), owner_for(scope), reader_for(scope)

        def submit() -> str:
            planned = plan_training(
                settings, body.recipe, body.overrides, owner=owner, reader=reader
            )
            _require_room(settings, tenant, owner)
            return submit_job(
                settings,
                JOB,
                recipe=planned.recipe,
                sets=planned.sets,
                metadata={"tenant": tenant, "recipe": body.recipe},
                withheld=withheld_secrets(settings, settings.serving.training.keep_secrets),
            )

        async def produce() -> dict[str, Any]:
            async with submitting:
                job_id = await asyncio.to_thread(submit)
            return {"job_id": job_id, "status_url": f"/llm/training/{job_id}"}

        answer = await requests.run_once(request, idempotency_key, body.model_dump(), produce)
        return TrainAccepted.model_validate(answer)

    # These routes are no coroutines: FastAPI runs them in threads, where the job server may block.
    @router.get("/training")
    def list_training(request: Request) -> dict[str, Any]:
        """Training jobs, newest first."""
        jobs = [_summary(job) for job in _list_jobs(settings, request.scope)]
        return {"jobs": sorted(jobs, key=lambda job: -(job["started_s"] or 0))}

    @router.get("/training/{job_id}")
    def show_training(request: Request, job_id: str) -> dict[str, Any]:
        """Status, step, losses, tokens per second, time left and artifact of one job."""
        job = _find_job(settings, request.scope, job_id)
        logs = str(job_client(settings).get_job_logs(job_id))
        outcome: dict[str, Any] = {"artifacts": {}, "metrics": {}, "error": None}
        if job_state(job).status in ENDED:
            try:
                result = job_result(logs)
            except JobError as error:
                outcome["error"] = error.message
            else:
                outcome = {name: getattr(result, name) for name in outcome}
        shown: dict[str, Any] = hide_paths_in(outcome)
        return _summary(job) | progress_of_log(logs) | shown

    @router.post("/training/{job_id}/stop")
    def stop_training(request: Request, job_id: str) -> dict[str, Any]:
        """Stop a job; its last checkpoint is kept."""
        status = job_state(_find_job(settings, request.scope, job_id)).status
        if status in ENDED:
            raise ConflictError(f"Job {job_id} has ended already: {status}.")
        job_client(settings).stop_job(job_id)
        return _summary(_find_job(settings, request.scope, job_id)) | {"stopping": True}

    @router.get("/training/{job_id}/logs", response_class=PlainTextResponse)
    def show_logs(request: Request, job_id: str) -> str:
        """The log of a job."""
        _find_job(settings, request.scope, job_id)
        return hide_paths(str(job_client(settings).get_job_logs(job_id)))

    return router


def _all_jobs(settings: Settings) -> list[Any]:
    # Jobs of another kind are hidden: these routes must not stop them or show their logs.
    return [job for job in job_client(settings).list_jobs() if job_state(job).name == JOB]


def _list_jobs(settings: Settings, scope: Scope) -> list[Any]:
    """Training jobs that the caller may see and stop: its tenant's."""
    return [job for job in _all_jobs(settings) if may_change(scope, _owner_of(job))]


def _owner_of(job: Any) -> str | None:
    """The tenant that a job belongs to; None is the operator, as for jobs of the command line."""
    tenant: str = (job.metadata or {}).get("tenant", OPERATOR)
    return None if tenant == OPERATOR else tenant


def _require_room(settings: Settings, tenant: str, owner: str | None) -> None:
    """Refuse a further training of a tenant that has as many as it may."""
    limit = settings.serving.training.bounds_of(owner).max_running
    active = [
        job
        for job in _all_jobs(settings)
        if _owner_of(job) == owner and job_state(job).status not in ENDED
    ]
    if len(active) >= limit:
        raise RateLimitError(
            f"{len(active)} trainings of the tenant {tenant!r} wait or run; its limit is {limit}.",
            "Wait for one to end, or stop one: POST /llm/training/{job_id}/stop.",
        )


def _find_job(settings: Settings, scope: Scope, job_id: str) -> Any:
    # Another tenant's job is unknown like one that never was, and is not among the known ones.
    jobs = {str(job.submission_id): job for job in _list_jobs(settings, scope)}
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
        "figures": last.figures if last else {},
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
