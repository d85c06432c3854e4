"""Refused requests of tenants: whoever is refused again and again is let in at a slower pace."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sunloom.config.request_limits import RequestLimits
from sunloom.errors import RateLimitError

# Statuses of requests that would be refused again; what another has just changed, or what comes too
# early, is no mistake.
_REFUSALS = frozenset({400, 403, 404, 405, 406, 408, 411, 413, 414, 415, 422, 431})

# Where all of a tenant's requests are refused, its pace settles where as many are forgiven. The
# bound lets one that makes no more mistakes go on as before within a minute.
_SPACING_S = 0.05
_MOST_BEYOND = 40
# Less than many clients' timeout.
_LONGEST_WAIT_S = 4.0
# A request that finds no turn is answered late, too: a client that tries again at once costs more
# than one that waits.
_LATE_S = 1.0
# Each holds a connection and the part of its body that has arrived, some 64 KiB.
_MOST_WAITING = 128
_MOST_TENANTS = 1_000


@dataclass(slots=True)
class _Tenant:
    """One tenant, as this process sees it.

    Attributes:
        refusals: Refused requests that are not forgiven.
        counted_at: When they were counted.
        next_turn: When its next request may pass.
        waiting: Requests that wait.
    """

    refusals: float
    counted_at: float
    next_turn: float = 0.0
    waiting: int = 0


def is_refusal(method: str, status: int) -> bool:
    """Whether an answer counts as one to a request that is refused.

    Who reads what is not there yet, and asks again, makes no mistake.
    """
    return status in _REFUSALS and (status != 404 or method != "GET")


class RefusedRequests:
    """Counts the refused requests of each tenant, and spaces the requests of those with many.

    A tenant's keys count together, as it may have any number of them. Each process counts its own.

    Args:
        limits: How many refusals cost nothing, and how many are forgiven a second.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, limits: RequestLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = limits.refusals
        self._forgiven_per_s = limits.refusals_forgiven_per_s
        self._clock = clock
        # The one with the latest refusal last.
        self._tenants: dict[str, _Tenant] = {}
        self._until = 0.0

    @property
    def has_slow_tenants(self) -> bool:
        """Whether any tenant may have to wait: what a request of the others pays for."""
        return self._clock() < self._until

    def count(self, name: str) -> None:
        """Count one refused request of a tenant."""
        now = self._clock()
        tenant = self._tenants.pop(name, None) or _Tenant(0.0, now)
        refusals = min(self._unforgiven_of(tenant, now) + 1, self._free + _MOST_BEYOND)
        tenant.refusals, tenant.counted_at = refusals, now
        self._tenants[name] = tenant
        if len(self._tenants) > _MOST_TENANTS:
            del self._tenants[next(iter(self._tenants))]
        if refusals > self._free:
            until = now + (refusals - self._free) / self._forgiven_per_s
            self._until = max(self._until, until)

    async def wait_for_turn(self, name: str) -> None:
        """Wait until a tenant's request may pass; at once for one with few refusals.

        Raises:
            RateLimitError: So many of its requests wait already that this one's turn is far.
        """
        tenant = self._tenants.get(name)
        if tenant is None:
            return
        now = self._clock()
        spacing_s = (self._unforgiven_of(tenant, now) - self._free) * _SPACING_S
        if spacing_s <= 0:
            return
        wait_s = max(0.0, tenant.next_turn - now)
        has_turn = wait_s <= _LONGEST_WAIT_S and tenant.waiting < _MOST_WAITING
        if has_turn:
            tenant.next_turn = now + wait_s + spacing_s
        if tenant.waiting < _MOST_WAITING:
            tenant.waiting += 1
            try:
                await asyncio.sleep(wait_s if has_turn else _LATE_S)
            finally:
                tenant.waiting -= 1
        if not has_turn:
            raise RateLimitError(
                f"Many requests of the tenant {name!r} were refused: others have to wait.",
                "Mend the requests that are answered 400, 403, 404, 405, 413 or 422.",
                retry_after_s=max(1, math.ceil(tenant.next_turn - self._clock())),
            )

    def _unforgiven_of(self, tenant: _Tenant, now: float) -> float:
        return max(0.0, tenant.refusals - (now - tenant.counted_at) * self._forgiven_per_s)
