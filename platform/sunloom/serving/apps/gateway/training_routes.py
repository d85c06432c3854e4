"""``/llm/train`` and ``/llm/training``: fine-tuning as Ray jobs, with their progress and result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.host_paths import hide_paths
from sunloom.core.jobs import (
    ENDED,
    job_client,
    job_state,
    submit_job,
    withheld_secrets,
)
from sunloom.errors import ConflictError, NotFoundError, PermissionDeniedError, RateLimitError
from sunloom.serving.apps.event_streams import After, LastEventId, resume_after
from sunloom.serving.apps.fastapi_app import ClosedBody
from sunloom.serving.apps.gateway.training_events import TrainingStreams
from sunloom.serving.apps.gateway.training_request import plan_training
from sunloom.serving.apps.gateway.training_views import (
    outcome_of_log,
    progress_of_log,
    summarize_job,
)
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.asgi import Scope
from sunloom.serving.auth.middleware import caller, tenant_of
from sunloom.serving.auth.tenants import OPERATOR, may_change, owner_for, reader_for

JOB = "llm_train"


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
    database = open_database(settings)
    requests, streams = IdempotentRequests(database), TrainingStreams(settings, database)
    # Counted and submitted by one request at a time, so that many at once cannot pass the bound.
    submitting = asyncio.Lock()

    @router.post("/train", status_code=202)
    async def train(
        request: Request, body: TrainRequest, idempotency_key: IdempotencyKey = None
    ) -> TrainAccepted:
        """Start a training job."""
        scope = request.scope
        return await accept(request, idempotency_key, body.model_dump(), lambda: start(scope, body))

    async def accept(
        request: Request, idempotency_key: str | None, sent: Any, submit: Callable[[], str]
    ) -> TrainAccepted:
        async def produce() -> dict[str, Any]:
            async with submitting:
                job_id = await asyncio.to_thread(submit)
            return {"job_id": job_id, "status_url": f"/llm/training/{job_id}"}

        answer = await requests.run_once(request, idempotency_key, sent, produce)
        return TrainAccepted.model_validate(answer)

    def start(scope: Scope, body: TrainRequest) -> str:
        owner = owner_for(scope)
        planned = plan_training(
            settings, body.recipe, body.overrides, owner=owner, reader=reader_for(scope)
        )
        _require_room(settings, tenant_of(scope), owner)
        return submit_job(
            settings,
            JOB,
            recipe=planned.recipe,
            sets=planned.sets,
            metadata={
                "tenant": tenant_of(scope),
                "recipe": body.recipe,
                "overrides": json.dumps(body.overrides),
            },
            withheld=withheld_secrets(settings, settings.serving.training.keep_secrets),
        )

    # These routes are no coroutines: FastAPI runs them in threads, where the job server may block.
    @router.get("/training")
    def list_training(request: Request) -> dict[str, Any]:
        """Training jobs, newest first."""
        jobs = [summarize_job(job) for job in _list_jobs(settings, request.scope)]
        return {"jobs": sorted(jobs, key=lambda job: -(job["started_s"] or 0))}

    @router.get("/training/{job_id}")
    def show_training(request: Request, job_id: str) -> dict[str, Any]:
        """Status, step, losses, tokens per second, time left and artifact of one job."""
        job = _find_job(settings, request.scope, job_id)
        logs = str(job_client(settings).get_job_logs(job_id))
        return summarize_job(job) | progress_of_log(logs) | outcome_of_log(job, logs)

    @router.post("/training/{job_id}/stop")
    def stop_training(request: Request, job_id: str) -> dict[str, Any]:
        """Stop a job; its last checkpoint is kept."""
        status = job_state(_find_job(settings, request.scope, job_id)).status
        if status in ENDED:
            raise ConflictError(f"Job {job_id} has ended already: {status}.")
        job_client(settings).stop_job(job_id)
        return summarize_job(_find_job(settings, request.scope, job_id)) | {"stopping": True}

    @router.get("/training/{job_id}/events", response_class=StreamingResponse)
    async def get_events(
        request: Request, job_id: str, last_event_id: LastEventId = None, after: After = 0
    ) -> StreamingResponse:
        """The job's progress as it happens (server-sent events); ends when the job ends."""
        await asyncio.to_thread(_find_job, settings, request.scope, job_id)
        key = caller(request.scope).key
        assert key is not None
        return streams.response(key, job_id, resume_after(last_event_id, after))

    @router.post("/training/{job_id}/resume", status_code=202)
    async def resume_training(
        request: Request, job_id: str, idempotency_key: IdempotencyKey = None
    ) -> TrainAccepted:
        """Go on, as a new job, with one that was stopped or failed, from its newest checkpoint."""
        scope = request.scope

        def submit() -> str:
            job = _find_job(settings, scope, job_id)
            if _owner_of(job) != owner_for(scope):
                raise PermissionDeniedError(
                    f"Job {job_id} is another tenant's.", "Resume it with a key of that tenant."
                )
            return start(scope, _read_request(job))

        return await accept(request, idempotency_key, {"job_id": job_id}, submit)

    @router.get("/training/{job_id}/logs", response_class=PlainTextResponse)
    def show_logs(request: Request, job_id: str) -> str:
        """The log of a job."""
        _find_job(settings, request.scope, job_id)
        return hide_paths(str(job_client(settings).get_job_logs(job_id)))

    return router


def _read_request(job: Any) -> TrainRequest:
    """What was asked for with a job that has not reached its end; its unfinished run is reused.

    Raises:
        ConflictError: It runs or has succeeded, or was not submitted over HTTP.
    """
    status = job_state(job).status
    if status not in ENDED or status == "SUCCEEDED":
        raise ConflictError(
            f"Job {job.submission_id} is {status.lower()}: only a stopped or failed one is resumed."
        )
    overrides = (job.metadata or {}).get("overrides")
    if overrides is None:
        raise ConflictError(
            f"Job {job.submission_id} was not submitted over HTTP.",
            "Submit the same recipe again: an unfinished run is gone on from.",
        )
    # The run of the same recipe and data that got furthest is gone on from.
    asked = json.loads(overrides)
    asked.pop("output.reuse", None)
    return TrainRequest(recipe=job.metadata["recipe"], overrides=asked | {"output.reuse": True})


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
