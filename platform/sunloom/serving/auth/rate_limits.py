"""Rate limits and token quotas of keys, counted over all processes through the database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Integer, String, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.core.database import Base, Database
from sunloom.errors import RateLimitError
from sunloom.serving.auth.api_keys import KeyRecord

# A row like the others, so that the same statements add to it and read it.
_TOTAL = -1
# Only the present minute decides; an hour is kept for people who read the table.
_KEPT_MINUTES = 60


class UsageRow(Base):
    """Usage of one account in one minute since the epoch; minute -1 holds the total."""

    __tablename__ = "api_usage"

    account: Mapped[str] = mapped_column(String(20), primary_key=True)
    minute: Mapped[int] = mapped_column(Integer, primary_key=True)
    requests: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Tokens that one request to a language model used.

    Attributes:
        model: The model as the engine names it, such as ``retail-agent@2``.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Generated tokens; 0 for pooling models.
        total_tokens: What counts against the quota.
    """

    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass
class _Account:
    """One account as this process sees it: counts read from the database, and unwritten ones."""

    minute: int = 0
    requests: int = 0
    tokens: int = 0
    new_requests: int = 0
    new_tokens: int = 0

    def start_minute(self, minute: int) -> None:
        """Reset the requests if a new minute has begun."""
        if minute != self.minute:
            self.minute, self.requests = minute, 0


class RateLimiter:
    """Counts requests and tokens; processes agree within the interval at which they sync.

    Args:
        database: Holds the counts of all processes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._accounts: dict[str, _Account] = {}
        database.ensure(UsageRow)

    def knows(self, account: str) -> bool:
        """Whether the account's counts were read in this process."""
        return account in self._accounts

    def charge(self, key: KeyRecord, at: float | None = None) -> None:
        """Count one request.

        Raises:
            RateLimitError: The minute's limit or the token quota is used up.
        """
        account = self._accounts.setdefault(key.account, _Account())
        account.start_minute(_minute(at))
        allowance = key.allowance
        if account.requests + account.new_requests >= allowance.requests_per_minute:
            raise RateLimitError(
                f"Key {key.id} may make {allowance.requests_per_minute} requests a minute.",
                "Wait for the next minute, or ask for a key with a higher limit.",
            )
        quota = allowance.token_quota
        if quota is not None and account.tokens + account.new_tokens >= quota:
            raise RateLimitError(
                f"Key {key.id} has used its quota of {quota} tokens.",
                "Ask for a key with a higher quota.",
            )
        # Counted only now: a rejected request does not use up the limit.
        account.new_requests += 1

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a model request against the key's quota."""
        self._accounts.setdefault(key.account, _Account()).new_tokens += spent.total_tokens

    def sync(self, account: str | None = None, at: float | None = None) -> None:
        """Write this process's counts and read the others'; blocking, so call it in a thread.

        Args:
            account: Also read this one, even if nothing was counted for it here.
            at: Seconds since the epoch; now by default.
        """
        if account is not None:
            self._accounts.setdefault(account, _Account())
        minute = _minute(at)
        # A copy of the items: the event loop adds accounts while this thread iterates.
        for name, counts in list(self._accounts.items()):
            if counts.new_requests or counts.new_tokens or name == account:
                self._exchange(name, counts, minute)

    def _exchange(self, name: str, account: _Account, minute: int) -> None:
        # Requests that arrive during the exchange increase new_requests: only what was written
        # is subtracted below.
        written = _Usage(account.new_requests, account.new_tokens)
        # Read before writing: what this process adds below is then counted exactly once.
        with self._database.session() as session:
            stored = _read(session, name, minute)
        if written.requests or written.tokens:
            for slot in (minute, _TOTAL):
                self._add(name, slot, written)
            self._delete_old(name, minute)
        account.start_minute(minute)
        account.requests = stored.get(minute, _Usage()).requests + written.requests
        account.tokens = stored.get(_TOTAL, _Usage()).tokens + written.tokens
        account.new_requests -= written.requests
        account.new_tokens -= written.tokens

    def _add(self, name: str, minute: int, usage: _Usage) -> None:
        statement = (
            update(UsageRow)
            .where(UsageRow.account == name, UsageRow.minute == minute)
            .values(
                requests=UsageRow.requests + usage.requests,
                tokens=UsageRow.tokens + usage.tokens,
            )
        )
        try:
            with self._database.session() as session:
                if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
                    session.add(UsageRow(account=name, minute=minute, **vars(usage)))
        except IntegrityError:
            # Another process inserted the row first.
            with self._database.session() as session:
                session.execute(statement)

    def _delete_old(self, name: str, minute: int) -> None:
        old = (UsageRow.account == name, UsageRow.minute.between(0, minute - _KEPT_MINUTES))
        with self._database.session() as session:
            session.execute(delete(UsageRow).where(*old))


@dataclass(frozen=True)
class _Usage:
    requests: int = 0
    tokens: int = 0


def _read(session: Session, account: str, minute: int) -> Mapping[int, _Usage]:
    query = select(UsageRow).where(
        UsageRow.account == account, UsageRow.minute.in_((minute, _TOTAL))
    )
    return {row.minute: _Usage(row.requests, row.tokens) for row in session.scalars(query)}


def _minute(at: float | None) -> int:
    return int((time.time() if at is None else at) // 60)
