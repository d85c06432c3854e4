"""``/llm/train`` and ``/llm/training``: fine-tuning as Ray jobs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.jobs import submit_job
from sunloom.errors import RequestError
from sunloom.serving.apps.gateway.training_jobs import TrainingJobs
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.auth.middleware import tenant_of

JOB = "llm_train"
# Paths, the database or the cluster would let a caller write wherever the server may.
ALLOWED = ("model", "data", "training", "lora", "evaluation", "output", "seed")
"""Parts of the recipe that a request may override; the others are the operator's."""


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
    jobs = TrainingJobs(settings, JOB)

    @router.post("/train", status_code=202)
    async def train(
        request: Request,
        body: TrainRequest,
        idempotency_key: IdempotencyKey = None,
    ) -> TrainAccepted:
        """Start a training job."""
        tenant = tenant_of(request.scope)

        async def produce() -> dict[str, Any]:
            job_id = await asyncio.to_thread(start_training, settings, body, tenant)
            return {"job_id": job_id, "status_url": f"/llm/training/{job_id}"}

        answer = await requests.run_once(
            tenant, "/llm/train", idempotency_key, body.model_dump(), produce
        )
        return TrainAccepted.model_validate(answer)

    @router.get("/training")
    async def list_training() -> dict[str, Any]:
        """Training jobs, newest first."""
        return {"jobs": await asyncio.to_thread(jobs.summaries)}

    @router.get("/training/{job_id}")
    async def show_training(job_id: str) -> dict[str, Any]:
        """Status, step, losses, tokens per second, time left and artifact of one job."""
        return await asyncio.to_thread(jobs.show, job_id)

    @router.post("/training/{job_id}/stop")
    async def stop_training(job_id: str) -> dict[str, Any]:
        """Stop a job; its last checkpoint is kept."""
        return await asyncio.to_thread(jobs.stop, job_id)

    @router.get("/training/{job_id}/logs", response_class=PlainTextResponse)
    async def show_logs(job_id: str) -> str:
        """The log of a job."""
        return await asyncio.to_thread(jobs.logs, job_id)

    return router


def start_training(settings: Settings, body: TrainRequest, tenant: str) -> str:
    """Submit a training job; returns its id.

    Raises:
        RequestError: A key may not be set over HTTP.
        NotFoundError: The project has no such job.
    """
    sets = assignments(body.overrides)
    metadata = {"tenant": tenant, "recipe": body.recipe}
    return submit_job(settings, JOB, f"conf/llm/{body.recipe}.yaml", sets, metadata)


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
