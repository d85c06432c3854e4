"""``/keys``: create, list and revoke keys; needs the scope ``admin``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.serving.apps.idempotency import IdempotencyKey, IdempotentRequests
from sunloom.serving.auth.api_keys import Allowance, create_key, list_keys, revoke_key
from sunloom.serving.auth.middleware import tenant_of


class NewKey(BaseModel):
    """Scopes, lifetime and limits of a new key."""

    scopes: list[str] = Field(min_length=1)
    tenant: str = Field(default="default", max_length=100)
    expires: str | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    token_quota: int | None = Field(default=None, ge=1)
    purpose: str = Field(default="", max_length=100)


def build_router(settings: Settings) -> APIRouter:
    """Routes of API keys."""
    router = APIRouter(prefix="/keys", tags=["keys"])
    requests = IdempotentRequests(open_database(settings))

    @router.post("", status_code=201)
    async def create(
        request: Request, body: NewKey, idempotency_key: IdempotencyKey = None
    ) -> dict[str, Any]:
        """Create a key; its secret is in this response only."""
        secret: str | None = None

        async def produce() -> dict[str, Any]:
            nonlocal secret
            secret, record = await asyncio.to_thread(
                create_key,
                settings,
                body.scopes,
                body.tenant,
                body.expires,
                allowance=Allowance.from_settings(
                    settings, body.requests_per_minute, body.token_quota
                ),
                purpose=body.purpose,
            )
            return record.to_dict()

        tenant = tenant_of(request.scope)
        answer = await requests.run_once(
            tenant, "/keys", idempotency_key, body.model_dump(), produce
        )
        # The secret is not stored, so a repeated request cannot get it again.
        return answer | {"key": secret}

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
