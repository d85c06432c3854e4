"""Reservations of tokens: what the running requests of one key may still use of its quota.

A request reserves what it may use before it begins: of many requests at once, each would find the
same rest of the quota.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from sunloom.errors import QuotaError, RateLimitError
from sunloom.serving.apps.llm.fair_queue import RETRY_S
from sunloom.serving.apps.llm.request_checks import Work
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.rate_limits import Spent


class TokenQuota(Protocol):
    """Counts of tokens by key; ``auth.middleware.KeyAdmission`` is the real one."""

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a request."""

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        """Tokens that are left of the key's quota; None without a quota."""

    def write_counts(self) -> None:
        """Write what was spent, for other processes to know; blocking."""


class KeyBudget:
    """Reserves tokens of keys' quotas, and counts what was used.

    Args:
        quota: Counts the tokens of keys.
        shared: What requests in other replicas have reserved; None where this is the only one.
    """

    def __init__(self, quota: TokenQuota, shared: KeyHolds | None = None) -> None:
        self._quota = quota
        self._shared = shared
        # Tokens, by account.
        self._reserved: Counter[str] = Counter()

    @asynccontextmanager
    async def reserve(self, key: KeyRecord, work: Work) -> AsyncIterator[int | None]:
        """Hold a request's share of the quota while it runs.

        Yields:
            The tokens that an answer may have, where the rest of the quota allows fewer than the
            request; else None.

        Raises:
            RateLimitError: Running requests of the key may use what is left.
            QuotaError: The quota's rest is too small.
        """
        if self._shared is not None and key.allowance.token_quota is not None:
            async with self._reserve_in_all(self._shared, key, work) as max_tokens:
                yield max_tokens
            return
        rest = self._quota.remaining_tokens(key)
        max_tokens = None if rest is None else _fit(key, rest, self._reserved[key.account], work)
        tokens = _most_tokens(work, max_tokens)
        self._reserved[key.account] += tokens
        try:
            yield max_tokens
        finally:
            self._reserved[key.account] -= tokens
            # Delegated keys come and go with the agents' tasks.
            if not self._reserved[key.account]:
                del self._reserved[key.account]

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count what a request has used."""
        self._quota.spend(key, spent)

    @asynccontextmanager
    async def _reserve_in_all(
        self, shared: KeyHolds, key: KeyRecord, work: Work
    ) -> AsyncIterator[int | None]:
        """Reserve in the database what all replicas' requests may use together."""
        quota = key.allowance.token_quota or 0
        fitted: list[int | None] = []

        def tokens_of(reserved: int, spent: int) -> int:
            fitted[:] = [_fit(key, max(0, quota - spent), reserved, work)]
            return _most_tokens(work, fitted[0])

        async with shared.hold(key.account, tokens_of):
            try:
                yield fitted[0]
            finally:
                # Before the reservation ends: else another replica would see neither of them.
                await asyncio.shield(asyncio.to_thread(self._quota.write_counts))


def _most_tokens(work: Work, max_tokens: int | None) -> int:
    answer_tokens = work.answer_tokens if max_tokens is None else max_tokens
    return work.prompt_tokens + work.sequences * answer_tokens


def _fit(key: KeyRecord, rest: int, reserved: int, work: Work) -> int | None:
    """The tokens that an answer may have; None for as many as the request asks for.

    Args:
        key: The caller's.
        rest: Tokens that are left of its quota.
        reserved: Those of them that its running requests may use.
        work: The request.
    """
    if work.total_tokens + reserved <= rest:
        return None
    quota = key.allowance.token_quota
    if reserved:
        raise RateLimitError(
            f"Key {key.id} has {rest} tokens left of its quota of {quota}; its running "
            f"requests may use {reserved} and this one {work.total_tokens}.",
            "Try again when they have ended, or set a smaller max_tokens.",
            retry_after_s=RETRY_S,
        )
    # The last tokens are usable: the answer ends where the quota does, as at the model's
    # longest length.
    max_tokens = (rest - work.prompt_tokens) // work.sequences
    if max_tokens < 1:
        raise QuotaError(
            f"Key {key.id} has {rest} tokens left of its quota of {quota}; this request needs "
            f"up to {work.prompt_tokens} for its prompt and more for {work.sequences} answers.",
            "Send a shorter prompt or ask for fewer answers, or ask for a key with a higher quota.",
        )
    return max_tokens
