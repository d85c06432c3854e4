"""Calls to ASGI apps in process, and an admission that needs no database."""

from __future__ import annotations

from typing import Any

import httpx

from sunloom.core.database import utc_now
from sunloom.errors import AuthenticationError, PermissionDeniedError
from sunloom.serving.auth.api_keys import Allowance, KeyRecord


def record(*scopes: str, **more: Any) -> KeyRecord:
    fields = {
        "id": "key_1",
        "shown": "sl-abc…",
        "tenant": "acme",
        "scopes": scopes,
        "allowance": Allowance(10),
        "parent": None,
        "purpose": "",
        "created_at": utc_now(),
        "expires_at": None,
        "revoked_at": None,
    }
    return KeyRecord(**fields | more)


class OpenGate:
    """Admission of one key, which records the requests that it observes."""

    def __init__(self, *scopes: str, secret: str = "good") -> None:
        self.key = record(*scopes)
        self.secret = secret
        self.seen: list[tuple[str, str, int]] = []
        self.is_revoked = False
        self.refused = 0

    async def admit(self, secret: str | None, scope: str | None) -> KeyRecord:
        if secret != self.secret:
            raise AuthenticationError("no", "hint")
        if not self.key.may(scope):
            raise PermissionDeniedError("lacks scope")
        return self.key

    async def is_valid(self, secret: str) -> bool:
        return not self.is_revoked

    def limit_headers(self, key: KeyRecord) -> list[tuple[bytes, bytes]]:
        return [(b"x-ratelimit-remaining-requests", b"9")]

    def count_refusal(self, key: KeyRecord) -> None:
        self.refused += 1

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((route, method, status))


async def call(
    app: Any, method: str, path: str, key: str | None = "good", **more: Any
) -> httpx.Response:
    headers = more.pop("headers", {})
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=headers, **more)
