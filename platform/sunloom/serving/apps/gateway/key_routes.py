"""``/keys``: make, list and revoke keys; for holders of ``admin``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.serving.apps.idempotency import IdempotentRequests
from sunloom.serving.auth.api_keys import KeyRecord, create_key, list_keys, revoke_key
from sunloom.serving.auth.middleware import caller


class NewKey(BaseModel):
    """What a key may do and for how long."""

    scopes: list[str] = Field(min_length=1)
    tenant: str = Field(default="default", max_length=100)
    expires: str | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    token_quota: int | None = Field(default=None, ge=1)
    purpose: str = Field(default="", max_length=100)


def build_router(settings: Settings) -> APIRouter:
    """Routes of keys."""
    router = APIRouter(prefix="/keys", tags=["keys"])
    requests = IdempotentRequests(open_database(settings))

    @router.post("", status_code=201)
    async def create(
        request: Request, body: NewKey, idempotency_key: str | None = Header(default=None)
    ) -> dict[str, Any]:
        """Make a key; its secret is in this answer only."""
        secrets: list[str] = []

        async def produce() -> dict[str, Any]:
            secret, record = await asyncio.to_thread(_create, settings, body)
            secrets.append(secret)
            return record.to_dict()

        key = caller(request.scope).key
        tenant = key.tenant if key else ""
        answer = await requests.once(tenant, "/keys", idempotency_key, body.model_dump(), produce)
        # The secret is not kept, so a repeated request cannot have it again.
        return answer | {"key": secrets[0] if secrets else None}

    @router.get("")
    async def show(delegated: bool = False) -> dict[str, Any]:
        """All keys without their secrets."""
        records = await asyncio.to_thread(list_keys, settings, delegated=delegated)
        return {"keys": [record.to_dict() for record in records]}

    @router.delete("/{key_id}")
    async def revoke(key_id: str) -> dict[str, Any]:
        """Revoke a key and everything delegated from it."""
        record = await asyncio.to_thread(revoke_key, settings, key_id)
        return record.to_dict()

    return router


def _create(settings: Settings, body: NewKey) -> tuple[str, KeyRecord]:
    return create_key(
        settings,
        body.scopes,
        body.tenant,
        body.expires,
        requests_per_minute=body.requests_per_minute,
        token_quota=body.token_quota,
        purpose=body.purpose,
    )
