"""Failed attempts of sources: whoever presents unknown keys again and again is answered late."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Callable, Mapping

PROXY_TOKEN = "SUNLOOM_SERVING_PROXY_TOKEN"
"""Variable with the token by which HAProxy's word for a client's address is known."""
SOURCE_HEADER = b"x-sunloom-source"
"""Header with the token and the client's address, which HAProxy sets over the client's own."""

# A program with a wrong key is answered at once for its first tries; a guessing one is not.
_FREE = 20
_FORGIVEN_PER_S = 1.0
_LONGEST_DELAY_S = 2.0
_MOST_SOURCES = 1_000
# Each late answer holds a connection; beyond these the connections are what runs out.
_MOST_WAITING = 500


class FailedAttempts:
    """Counts the failed attempts of each source; an attempt is forgiven every second.

    Only the answers to failures are late, so that a guest behind the same address as an honest
    holder of a key takes nothing from him.

    Args:
        clock: Seconds on a clock that never goes back.
        token: HAProxy's; this process's variable by default. Empty believes no header.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, token: str | None = None
    ) -> None:
        self._clock = clock
        self._token = (os.environ.get(PROXY_TOKEN, "") if token is None else token).encode()
        # Attempts and when they were counted, the source of the latest failure last.
        self._attempts: dict[str, tuple[float, float]] = {}
        self._waiting = 0

    def source_of(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The address that a request comes from: behind HAProxy, whose peer it is."""
        token, _, address = headers.get(SOURCE_HEADER, b"").partition(b" ")
        if self._token and hmac.compare_digest(token, self._token):
            return address.decode("latin-1")
        return peer

    def count(self, source: str) -> float:
        """Count one failure; the seconds that its answer is to wait."""
        now = self._clock()
        attempts, counted_at = self._attempts.pop(source, (0.0, now))
        attempts = max(0.0, attempts - (now - counted_at) * _FORGIVEN_PER_S) + 1
        # Bounded: beyond this a source that pauses would be punished for minutes.
        attempts = min(attempts, 2.0 * _FREE)
        self._attempts[source] = attempts, now
        if len(self._attempts) > _MOST_SOURCES:
            del self._attempts[next(iter(self._attempts))]
        return max(0.0, attempts - _FREE) / _FREE * _LONGEST_DELAY_S

    async def slow_down(self, source: str) -> None:
        """Count one failure, and wait as long as its answer is to."""
        delay_s = self.count(source)
        if not delay_s or self._waiting >= _MOST_WAITING:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._waiting -= 1
