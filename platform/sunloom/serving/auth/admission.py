"""Admission by API keys: scopes, limits and counters, with keys cached for a short time."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.database import utc_now
from sunloom.core.telemetry import get_logger
from sunloom.errors import AuthenticationError, PermissionDeniedError
from sunloom.serving.auth.api_keys import KeyRecord, find_key, open_keys
from sunloom.serving.auth.rate_limits import RateLimiter, Spent

# A limit may be exceeded by what other processes admit meanwhile: a second keeps that small and
# costs one write a second and process, however many requests there are.
_SYNC_S = 1.0
_CACHED_KEYS = 10_000
_logger = get_logger("serving.admission")


class RequestObserver(Protocol):
    """Counts answered requests; ``metrics.request_metrics.RequestMetrics`` is the real one."""

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""

    def flush(self) -> None:
        """Write the counts; blocking."""


class KeyAdmission:
    """Admission by API keys: one instance per process and app.

    Args:
        settings: The platform's settings.
        metrics: Counts answered requests.
    """

    def __init__(self, settings: Settings, metrics: RequestObserver) -> None:
        self._settings = settings
        # Unknown secrets are cached as None, so that they do not reach the database either.
        self._keys = TtlCache[str, KeyRecord | None](settings.serving.keys.cache_s, _CACHED_KEYS)
        database = open_keys(settings)
        self._limiter = RateLimiter(database)
        self._metrics = metrics
        self._syncing: asyncio.Task[None] | None = None

    async def admit(self, secret: str | None, scope: str | None) -> KeyRecord:
        """The key's record, if the request is allowed; counts the request against its limits.

        Raises:
            AuthenticationError: No key, or one that is unknown, expired or revoked.
            PermissionDeniedError: The key lacks the scope.
            RateLimitError: A limit is used up.
        """
        if not secret:
            raise AuthenticationError(
                "This route needs a key.", "Send the header Authorization: Bearer KEY."
            )
        key = await self._keys.get_or_await(secret, lambda: asyncio.to_thread(self._read, secret))
        if key is None or not key.is_valid(utc_now()):
            raise AuthenticationError(
                "The key is unknown, expired or revoked.", "Create one with: sunloom keys create"
            )
        if not key.may(scope):
            raise PermissionDeniedError(
                f"Key {key.id} lacks the scope {scope!r}.",
                f"Its scopes: {', '.join(key.scopes)}.",
            )
        self._limiter.charge(key)
        self._sync_soon()
        return key

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._metrics.observe(route, method, status, seconds)
        self._sync_soon()

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a model request against a key's quota."""
        self._limiter.spend(key, spent)

    def _read(self, secret: str) -> KeyRecord | None:
        key = find_key(self._settings, secret)
        # Without the other processes' counts each of them would grant the whole limit.
        if key is not None and not self._limiter.knows(key.account):
            self._limiter.sync(key.account)
        return key

    def _sync_soon(self) -> None:
        # One exchange at a time, for all requests that arrive meanwhile.
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def _sync(self) -> None:
        await asyncio.sleep(_SYNC_S)
        try:
            await asyncio.to_thread(self._exchange)
        except Exception as error:  # noqa: BLE001 - a busy database must not stop requests
            _logger.warning("counters could not be written, trying again: %s", error)

    def _exchange(self) -> None:
        self._limiter.sync()
        self._metrics.flush()
