"""Bounds of what one key has in the engine at once: answers that are generated, tokens reserved.

A request reserves what it may use before it begins: of many requests at once, each would find the
same rest of the quota.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sunloom.config.request_limits import LlmLimits
from sunloom.errors import QuotaError, RateLimitError
from sunloom.serving.apps.llm.request_checks import Work
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.rate_limits import Spent

# About as long as an answer takes.
_RETRY_S = 5


class TokenQuota(Protocol):
    """Counts of tokens by key; ``auth.middleware.KeyAdmission`` is the real one."""

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a request."""

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        """Tokens that are left of the key's quota; None without a quota."""


@dataclass
class _Account:
    sequences: int = 0
    reserved_tokens: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    @property
    def is_idle(self) -> bool:
        return not (self.sequences or self.reserved_tokens or self.waiting)


class KeyBudget:
    """Admits the requests of each key, in the order of their arrival.

    Args:
        quota: Counts the tokens of keys.
        limits: The bounds.
    """

    def __init__(self, quota: TokenQuota, limits: LlmLimits) -> None:
        self._quota = quota
        self._limits = limits
        self._accounts: dict[str, _Account] = {}

    @asynccontextmanager
    async def admit(self, key: KeyRecord, work: Work) -> AsyncIterator[int | None]:
        """Hold a request's share of the engine and of the quota while it runs.

        Yields:
            The tokens that an answer may have, where the rest of the quota allows fewer than the
            request; else None.

        Raises:
            RateLimitError: Too many requests of the key wait, or the quota's rest is too small.
        """
        account = self._accounts.setdefault(key.account, _Account())
        await self._take(key, account, work.sequences)
        reserved = 0
        try:
            max_tokens = self._fit(key, account, work)
            answer_tokens = work.answer_tokens if max_tokens is None else max_tokens
            reserved = work.prompt_tokens + work.sequences * answer_tokens
            account.reserved_tokens += reserved
            yield max_tokens
        finally:
            account.reserved_tokens -= reserved
            self._release(account, work.sequences)
            # Delegated keys come and go with the agents' tasks.
            if account.is_idle:
                self._accounts.pop(key.account, None)

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count what a request has used."""
        self._quota.spend(key, spent)

    def _fit(self, key: KeyRecord, account: _Account, work: Work) -> int | None:
        rest = self._quota.remaining_tokens(key)
        if rest is None or work.total_tokens + account.reserved_tokens <= rest:
            return None
        quota = key.allowance.token_quota
        if account.reserved_tokens:
            raise RateLimitError(
                f"Key {key.id} has {rest} tokens left of its quota of {quota}; its running "
                f"requests may use {account.reserved_tokens} and this one {work.total_tokens}.",
                "Try again when they have ended, or set a smaller max_tokens.",
                retry_after_s=_RETRY_S,
            )
        # The last tokens are usable: the answer ends where the quota does, as at the model's
        # longest length.
        max_tokens = (rest - work.prompt_tokens) // work.sequences
        if max_tokens < 1:
            raise QuotaError(
                f"Key {key.id} has {rest} tokens left of its quota of {quota}; this request needs "
                f"up to {work.prompt_tokens} for its prompt and more for {work.sequences} "
                "answers.",
                "Send a shorter prompt or ask for fewer answers, or ask for a key with a higher "
                "quota.",
            )
        return max_tokens

    async def _take(self, key: KeyRecord, account: _Account, sequences: int) -> None:
        if not account.waiting and account.sequences + sequences <= self._limits.max_sequences:
            account.sequences += sequences
            return
        account.waiting = deque(pair for pair in account.waiting if not pair[1].cancelled())
        if len(account.waiting) >= self._limits.max_waiting:
            raise RateLimitError(
                f"{len(account.waiting)} requests of key {key.id} wait for its running ones.",
                "Send fewer requests at once.",
                retry_after_s=_RETRY_S,
            )
        turn = asyncio.get_running_loop().create_future()
        account.waiting.append((sequences, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # Its turn came in the moment in which the client left.
                account.sequences -= sequences
            self._wake(account)
            raise

    def _release(self, account: _Account, sequences: int) -> None:
        account.sequences -= sequences
        self._wake(account)

    def _wake(self, account: _Account) -> None:
        # Only the first: a request for many answers must not starve behind small ones.
        while account.waiting:
            sequences, turn = account.waiting[0]
            if turn.cancelled():
                account.waiting.popleft()
                continue
            if account.sequences + sequences > self._limits.max_sequences:
                return
            account.waiting.popleft()
            account.sequences += sequences
            turn.set_result(None)
