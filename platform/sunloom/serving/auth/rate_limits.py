"""Limits a minute and token quotas, counted over all processes through the database."""

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

_TOTAL = -1
_KEPT_MINUTES = 60


class UsageRow(Base):
    """What one account used in one minute; minute -1 holds the total."""

    __tablename__ = "api_usage"

    account: Mapped[str] = mapped_column(String(20), primary_key=True)
    minute: Mapped[int] = mapped_column(Integer, primary_key=True)
    requests: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)


@dataclass
class _Account:
    """One account as this process sees it: what the database said, and what it has not yet."""

    minute: int = 0
    requests: int = 0
    tokens: int = 0
    new_requests: int = 0
    new_tokens: int = 0

    def turn(self, minute: int) -> None:
        """Begin a new minute."""
        if minute != self.minute:
            self.minute, self.requests = minute, 0


class RateLimiter:
    """Counts requests and tokens; several processes agree within a second.

    Args:
        database: Where the counts meet.
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
        account.turn(_minute(at))
        if account.requests + account.new_requests >= key.requests_per_minute:
            raise RateLimitError(
                f"Key {key.id} may make {key.requests_per_minute} requests a minute.",
                "Wait for the next minute, or ask for a key with a higher limit.",
            )
        if key.token_quota is not None and account.tokens + account.new_tokens >= key.token_quota:
            raise RateLimitError(
                f"Key {key.id} has used its quota of {key.token_quota} tokens.",
                "Ask for a key with a higher quota.",
            )
        account.new_requests += 1

    def spend(self, key: KeyRecord, tokens: int) -> None:
        """Count model tokens."""
        self._accounts.setdefault(key.account, _Account()).new_tokens += tokens

    def sync(self, account: str | None = None, at: float | None = None) -> None:
        """Write what is new and read what others counted; blocking, so call it in a thread.

        Args:
            account: Also read this one, even if nothing is new.
            at: Seconds since the epoch; the present by default.
        """
        if account is not None:
            self._accounts.setdefault(account, _Account())
        minute = _minute(at)
        for name, held in list(self._accounts.items()):
            if held.new_requests or held.new_tokens or name == account:
                self._exchange(name, held, minute)

    def _exchange(self, name: str, held: _Account, minute: int) -> None:
        requests, tokens = held.new_requests, held.new_tokens
        with self._database.session() as session:
            totals = _read(session, name, minute)
        written = _Written(requests, tokens)
        if requests or tokens:
            for slot in (minute, _TOTAL):
                self._add(name, slot, written)
            self._forget(name, minute)
        held.turn(minute)
        held.requests = totals.get(minute, _Written()).requests + requests
        held.tokens = totals.get(_TOTAL, _Written()).tokens + tokens
        held.new_requests -= requests
        held.new_tokens -= tokens

    def _add(self, name: str, minute: int, amount: _Written) -> None:
        statement = (
            update(UsageRow)
            .where(UsageRow.account == name, UsageRow.minute == minute)
            .values(
                requests=UsageRow.requests + amount.requests,
                tokens=UsageRow.tokens + amount.tokens,
            )
        )
        try:
            with self._database.session() as session:
                if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
                    session.add(UsageRow(account=name, minute=minute, **vars(amount)))
        except IntegrityError:
            # Another process made the row first.
            with self._database.session() as session:
                session.execute(statement)

    def _forget(self, name: str, minute: int) -> None:
        old = (UsageRow.account == name, UsageRow.minute.between(0, minute - _KEPT_MINUTES))
        with self._database.session() as session:
            session.execute(delete(UsageRow).where(*old))


@dataclass(frozen=True)
class _Written:
    requests: int = 0
    tokens: int = 0


def _read(session: Session, account: str, minute: int) -> Mapping[int, _Written]:
    query = select(UsageRow).where(
        UsageRow.account == account, UsageRow.minute.in_((minute, _TOTAL))
    )
    return {row.minute: _Written(row.requests, row.tokens) for row in session.scalars(query)}


def _minute(at: float | None) -> int:
    return int((time.time() if at is None else at) // 60)
