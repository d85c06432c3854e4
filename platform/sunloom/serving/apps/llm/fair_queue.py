"""Turns of tenants at the engine: each has a share, and what is free goes to who has the least."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from sunloom.errors import RateLimitError

RETRY_S = 5
"""About as long as an answer takes."""


@dataclass(frozen=True, eq=False)
class _Turn:
    """A request that waits: the order of arrival, what it needs, and what it waits for."""

    number: int
    amount: int
    has_come: asyncio.Future[None]


class Owner(NamedTuple):
    """Whose a request is: the tenant, and of its keys the account."""

    tenant: str
    account: str


class FairQueue:
    """Admits requests to the engine, at most so much of a tenant and of all at once.

    An engine's step takes as long as all that runs in it: what one tenant has in it is what the
    others wait for. Of those that wait, the tenant with the least in the engine is next, and of its
    accounts the one with the least; an account's own requests keep their order.

    Args:
        share: What one tenant may have in it: sequences, or tokens of prompts.
        capacity: What all tenants may have in it.
        max_waiting: Requests of one account that may wait; None is any number.
    """

    def __init__(self, share: int, capacity: int, max_waiting: int | None = None) -> None:
        self._share = min(share, capacity)
        self._capacity = capacity
        self._max_waiting = max_waiting
        # What is in the engine.
        self._of_tenants: Counter[str] = Counter()
        self._of_accounts: Counter[Owner] = Counter()
        self._waiting: dict[Owner, deque[_Turn]] = {}
        self._arrivals = 0

    @asynccontextmanager
    async def hold(self, owner: Owner, amount: int) -> AsyncIterator[None]:
        """Wait for a request's turn, and hold its part while it runs.

        Raises:
            RateLimitError: Too many requests of the account wait.
        """
        held = await self.take(owner, amount)
        try:
            yield
        finally:
            self.give_back(owner, held)

    async def take(self, owner: Owner, amount: int) -> int:
        """Wait for a request's turn.

        Args:
            owner: Whose request it is.
            amount: What it needs; more than a share counts as a share.

        Returns:
            What is to be given back.

        Raises:
            RateLimitError: Too many requests of the account wait.
        """
        amount = min(amount, self._share)
        turn = _Turn(self._arrivals, amount, asyncio.get_running_loop().create_future())
        self._arrivals += 1
        turns = self._waiting.setdefault(owner, deque())
        turns.append(turn)
        self._admit_waiting()
        most = self._max_waiting
        if most is not None and not turn.has_come.done() and len(turns) > most:
            self._drop(owner, turn)
            raise RateLimitError(
                f"{most} requests of key {owner.account} wait for the running ones.",
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
                self.give_back(owner, amount)
            raise
        return amount

    def give_back(self, owner: Owner, amount: int) -> None:
        """Leave the engine, and let in who is next."""
        self._count(owner, -amount)
        self._admit_waiting()

    def _count(self, owner: Owner, amount: int) -> None:
        self._of_tenants[owner.tenant] += amount
        self._of_accounts[owner] += amount
        # Delegated keys come and go with the agents' tasks.
        if not self._of_accounts[owner]:
            del self._of_accounts[owner]
        if not self._of_tenants[owner.tenant]:
            del self._of_tenants[owner.tenant]

    def _drop(self, owner: Owner, turn: _Turn) -> None:
        turns = self._waiting[owner]
        turns.remove(turn)
        if not turns:
            del self._waiting[owner]

    def _admit_waiting(self) -> None:
        """Let in whose turn it is, until the next one finds no room."""
        while (owner := self._next_owner()) is not None:
            turn = self._waiting[owner][0]
            if self._of_tenants.total() + turn.amount > self._capacity:
                # It keeps its turn: a request for many answers must not starve behind small ones.
                return
            self._drop(owner, turn)
            # One whose client leaves in this moment is still in the queue.
            if not turn.has_come.cancelled():
                self._count(owner, turn.amount)
                turn.has_come.set_result(None)

    def _next_owner(self) -> Owner | None:
        full = set[str]()
        for owner in sorted(self._waiting, key=self._place):
            tenant = owner.tenant
            if tenant in full:
                continue
            if self._of_tenants[tenant] + self._waiting[owner][0].amount <= self._share:
                return owner
            # Its first request keeps the turn among the tenant's own, too.
            full.add(tenant)
        return None

    def _place(self, owner: Owner) -> tuple[int, int, int]:
        return (
            self._of_tenants[owner.tenant],
            self._of_accounts[owner],
            self._waiting[owner][0].number,
        )
