"""HTTP client of the gateway for the apps beside it, through its own port."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.serving.auth.api_keys import create_system_key

_KEY_LIFE = timedelta(hours=1)
_SCOPES = ("llm", "features", "models", "agents")


class InnerClient:
    """Sends requests to the apps with a short-lived key of the platform's own.

    Args:
        settings: Address of the gateway.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Renewed at half of its life, so that a request never starts with a key about to expire.
        self._keys = TtlCache[tuple[str, ...], str](_KEY_LIFE.total_seconds() / 2)
        self._client: httpx.AsyncClient | None = None

    async def request(
        self, method: str, path: str, *, secret: str = "", timeout_s: float = 20.0, **more: Any
    ) -> httpx.Response:
        """Send one request, with the caller's key if given.

        Raises:
            httpx.HTTPError: No response in time.
        """
        # On first use: the client belongs to the event loop that serves.
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=self._settings.serving.local_url)
        secret = secret or await self._keys.get_or_await(
            _SCOPES,
            lambda: asyncio.to_thread(create_system_key, self._settings, _SCOPES, _KEY_LIFE),
        )
        headers = {"authorization": f"Bearer {secret}"}
        return await self._client.request(method, path, headers=headers, timeout=timeout_s, **more)
