"""Reservations of tokens: what the running requests of one key may still use of its quota.

A request reserves what it may use before it begins: of many requests at once, each would find the
same rest of the quota.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from sunloom.errors import QuotaError, RateLimitError
from sunloom.serving.apps.llm.fair_queue import RETRY_S
from sunloom.serving.apps.llm.request_checks import Work
from sunloom.serving.auth.api_keys import KeyRecord
from sunloom.serving.auth.rate_limits import Spent


class TokenQuota(Protocol):
    """Counts of tokens by key; ``auth.middleware.KeyAdmission`` is the real one."""

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a request."""

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        """Tokens that are left of the key's quota; None without a quota."""


class KeyBudget:
    """Reserves tokens of keys' quotas, and counts what was used.

    Args:
        quota: Counts the tokens of keys.
    """

    def __init__(self, quota: TokenQuota) -> None:
        self._quota = quota
        # Tokens, by account.
        self._reserved: Counter[str] = Counter()

    @contextmanager
    def reserve(self, key: KeyRecord, work: Work) -> Iterator[int | None]:
        """Hold a request's share of the quota while it runs.

        Yields:
            The tokens that an answer may have, where the rest of the quota allows fewer than the
            request; else None.

        Raises:
            RateLimitError: Running requests of the key may use what is left.
            QuotaError: The quota's rest is too small.
        """
        max_tokens = self._fit(key, work)
        answer_tokens = work.answer_tokens if max_tokens is None else max_tokens
        tokens = work.prompt_tokens + work.sequences * answer_tokens
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

    def _fit(self, key: KeyRecord, work: Work) -> int | None:
        rest, reserved = self._quota.remaining_tokens(key), self._reserved[key.account]
        if rest is None or work.total_tokens + reserved <= rest:
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
                f"up to {work.prompt_tokens} for its prompt and more for {work.sequences} "
                "answers.",
                "Send a shorter prompt or ask for fewer answers, or ask for a key with a higher "
                "quota.",
            )
        return max_tokens
