"""uvicorn's HTTP protocol with an end for requests that do not arrive.

uvicorn limits how long a connection is idle between requests, not how long a request may take to
arrive: a client that sends half a head, or a byte of a body now and then, keeps its connection for
ever.
"""

from __future__ import annotations

import asyncio
import os

from typing_extensions import override
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sunloom.config.request_limits import RequestLimits
from sunloom.serving.deploy.haproxy import ARRIVAL_S

# Beyond `serving.limits.arrival_s`, at which the middleware still answers.
_GRACE_S = 2.0


class ArrivalProtocol(HttpToolsProtocol):
    """Closes a connection whose request has not arrived ``arrival_s`` after its first byte."""

    arrival_s = RequestLimits().arrival_s + _GRACE_S
    _arriving_since: float | None = None
    _check_due: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with the connection itself: a first head may never come."""
        super().connection_made(transport)
        self._arriving_since = self.loop.time()
        self._check()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """End the checks."""
        super().connection_lost(exc)
        if self._check_due is not None:
            self._check_due.cancel()

    @override
    def on_message_begin(self) -> None:
        """Note when a request begins."""
        super().on_message_begin()
        self._arriving_since = self.loop.time()

    @override
    def on_message_complete(self) -> None:
        """Note that a request has arrived; how long its answer takes is the app's business."""
        super().on_message_complete()
        self._arriving_since = None

    def _check(self) -> None:
        # Now and then, and not a timer a request: a hot read would pay for it.
        now, since = self.loop.time(), self._arriving_since
        if since is not None and now - since >= self.arrival_s:
            self.transport.close()
            return
        due_in = self.arrival_s if since is None else since + self.arrival_s - now
        self._check_due = self.loop.call_later(due_in, self._check)


def install_arrival_protocol() -> None:
    """Let uvicorn servers of this process use it; Serve builds its own, without a choice."""
    if configured := os.environ.get(ARRIVAL_S):
        ArrivalProtocol.arrival_s = float(configured) + _GRACE_S
    auto.AutoHTTPProtocol = ArrivalProtocol
