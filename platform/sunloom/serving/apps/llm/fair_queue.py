"""Turns of tenants at the engine: each has a share, and what is free goes to who has the least."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sunloom.errors import RateLimitError

RETRY_S = 5
"""About as long as an answer takes."""


@dataclass(frozen=True, eq=False)
class _Turn:
    """A request that waits: the order of arrival, its sequences, and what it waits for."""

    number: int
    sequences: int
    has_come: asyncio.Future[None]


class FairQueue:
    """Admits requests to the engine, at most so many sequences of a tenant and of all at once.

    An engine's step takes as long as all that runs in it: what one tenant has in it is what the
    others wait for. Of those that wait, the tenant with the fewest sequences in the engine is next,
    and of its accounts the one with the fewest; an account's own requests keep their order.

    Args:
        share: Sequences of one tenant.
        capacity: Sequences of all tenants.
        max_waiting: Requests of one account that may wait.
    """

    def __init__(self, share: int, capacity: int, max_waiting: int) -> None:
        self._share = min(share, capacity)
        self._capacity = capacity
        self._max_waiting = max_waiting
        # Sequences in the engine, by tenant and by (tenant, account).
        self._of_tenants: Counter[str] = Counter()
        self._of_accounts: Counter[tuple[str, str]] = Counter()
        self._waiting: dict[tuple[str, str], deque[_Turn]] = {}
        self._arrivals = 0

    @asynccontextmanager
    async def hold(self, tenant: str, account: str, sequences: int) -> AsyncIterator[None]:
        """Wait for a request's turn, and hold its sequences while it runs.

        Args:
            tenant: Whose share it is.
            account: The key, of those of the tenant.
            sequences: Answers that are generated at once; more than a share count as a share.

        Raises:
            RateLimitError: Too many requests of the account wait.
        """
        owner, sequences = (tenant, account), min(sequences, self._share)
        await self._take(owner, sequences)
        try:
            yield
        finally:
            self._give_back(owner, sequences)

    async def _take(self, owner: tuple[str, str], sequences: int) -> None:
        turn = _Turn(self._arrivals, sequences, asyncio.get_running_loop().create_future())
        self._arrivals += 1
        turns = self._waiting.setdefault(owner, deque())
        turns.append(turn)
        self._admit_waiting()
        if not turn.has_come.done() and len(turns) > self._max_waiting:
            self._drop(owner, turn)
            raise RateLimitError(
                f"{self._max_waiting} requests of key {owner[1]} wait for the running ones.",
                "Send fewer requests at once.",
                retry_after_s=RETRY_S,
            )
        try:
            await turn.has_come
        except asyncio.CancelledError:
            if turn.has_come.cancelled():
                if turn in self._waiting.get(owner, ()):
                    self._drop(owner, turn)
                # It may have kept others from their turn.
                self._admit_waiting()
            else:
                # Its turn came in the moment in which the client left.
                self._give_back(owner, sequences)
            raise

    def _give_back(self, owner: tuple[str, str], sequences: int) -> None:
        self._count(owner, -sequences)
        self._admit_waiting()

    def _count(self, owner: tuple[str, str], sequences: int) -> None:
        self._of_tenants[owner[0]] += sequences
        self._of_accounts[owner] += sequences
        # Delegated keys come and go with the agents' tasks.
        if not self._of_accounts[owner]:
            del self._of_accounts[owner]
        if not self._of_tenants[owner[0]]:
            del self._of_tenants[owner[0]]

    def _drop(self, owner: tuple[str, str], turn: _Turn) -> None:
        turns = self._waiting[owner]
        turns.remove(turn)
        if not turns:
            del self._waiting[owner]

    def _admit_waiting(self) -> None:
        """Let in whose turn it is, until the next one finds no room."""
        while (owner := self._next_owner()) is not None:
            turn = self._waiting[owner][0]
            if self._of_tenants.total() + turn.sequences > self._capacity:
                # It keeps its turn: a request for many answers must not starve behind small ones.
                return
            self._drop(owner, turn)
            # One whose client leaves in this moment is still in the queue.
            if not turn.has_come.cancelled():
                self._count(owner, turn.sequences)
                turn.has_come.set_result(None)

    def _next_owner(self) -> tuple[str, str] | None:
        full = set[str]()
        for owner in sorted(self._waiting, key=self._place):
            tenant = owner[0]
            if tenant in full:
                continue
            if self._of_tenants[tenant] + self._waiting[owner][0].sequences <= self._share:
                return owner
            # Its first request keeps the turn among the tenant's own, too.
            full.add(tenant)
        return None

    def _place(self, owner: tuple[str, str]) -> tuple[int, int, int]:
        return self._of_tenants[owner[0]], self._of_accounts[owner], self._waiting[owner][0].number
