"""``/llm/train`` and ``/llm/training``: fine-tuning as Ray jobs."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.jobs import submit_job
from sunloom.errors import RequestError
from sunloom.serving.apps.gateway.training_jobs import JobDesk
from sunloom.serving.apps.idempotency import IdempotentRequests
from sunloom.serving.auth.middleware import tenant_of

JOB = "llm_train"
ALLOWED = ("model", "data", "training", "lora", "evaluation", "output", "seed")
"""Parts of the recipe that a request may change; the rest belongs to the operator."""


class TrainRequest(BaseModel):
    """A recipe in ``conf/llm`` and what shall differ from it."""

    recipe: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    overrides: dict[str, Any] = Field(default_factory=dict)


class TrainAccepted(BaseModel):
    """Where the training can be followed."""

    job_id: str
    status_url: str


def build_router(settings: Settings) -> APIRouter:
    """Routes of training jobs."""
    router = APIRouter(prefix="/llm", tags=["training"])
    requests = IdempotentRequests(open_database(settings))
    desk = JobDesk(settings, JOB)

    @router.post("/train", status_code=202)
    async def train(
        request: Request,
        body: TrainRequest,
        idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
    ) -> TrainAccepted:
        """Start a training job."""
        tenant = tenant_of(request.scope)

        async def produce() -> dict[str, Any]:
            job_id = await asyncio.to_thread(start_training, settings, body, tenant)
            return {"job_id": job_id, "status_url": f"/llm/training/{job_id}"}

        given = body.model_dump()
        answer = await requests.once(tenant, "/llm/train", idempotency_key, given, produce)
        return TrainAccepted.model_validate(answer)

    @router.get("/training")
    async def list_training() -> dict[str, Any]:
        """Training jobs, newest first."""
        return {"jobs": await asyncio.to_thread(desk.list)}

    @router.get("/training/{job_id}")
    async def show_training(job_id: str) -> dict[str, Any]:
        """Status, step, losses, tokens a second, time left and artifact of one job."""
        return await asyncio.to_thread(desk.show, job_id)

    @router.post("/training/{job_id}/stop")
    async def stop_training(job_id: str) -> dict[str, Any]:
        """Stop a job; its last checkpoint is kept."""
        return await asyncio.to_thread(desk.stop, job_id)

    @router.get("/training/{job_id}/logs", response_class=PlainTextResponse)
    async def show_logs(job_id: str) -> str:
        """What the job has printed."""
        return await asyncio.to_thread(desk.logs, job_id)

    return router


def start_training(settings: Settings, body: TrainRequest, tenant: str) -> str:
    """Submit the job.

    Raises:
        RequestError: A key may not be changed over HTTP.
        NotFoundError: The project has no such job.
    """
    sets = assignments(body.overrides)
    metadata = {"tenant": tenant, "recipe": body.recipe}
    return submit_job(settings, JOB, f"conf/llm/{body.recipe}.yaml", sets, metadata)


def assignments(overrides: dict[str, Any]) -> list[str]:
    """``a.b=c`` for each override, nested or dotted.

    Raises:
        RequestError: A key may not be changed over HTTP.
    """
    for key in overrides:
        if key.partition(".")[0] not in ALLOWED:
            raise RequestError(
                f"{key!r} cannot be set over HTTP.", f"What can: {', '.join(ALLOWED)}", key
            )
    return [f"{key}={json.dumps(value)}" for key, value in _flat(overrides)]


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found += _flat(value, f"{dotted}.")
        else:
            found.append((dotted, value))
    return found
