"""Rate limits and token quotas of keys, exact over all processes through the database.

A process takes a share of what is left of a key's minute from the database, a lease, and admits
requests from it without asking again. The shares shrink with what is left, so that few requests
are leased and unused when the limit is reached, and what a process does not use it gives back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from threading import Lock

from sqlalchemy import Integer, String, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.core.database import Base, Database
from sunloom.errors import QuotaError, RateLimitError
from sunloom.serving.auth.api_keys import KeyRecord

# A row like the others, so that the same statements add to it and read it.
_TOTAL = -1
# Only the present minute decides; an hour is kept for people who read the table.
_KEPT_MINUTES = 60
# A lease is this part of what is left: five idle processes hold back a tenth of a limit at most,
# and a key at the default limit of 6,000 causes about 300 writes in a minute that it uses up.
_SHARE = 50
# A refused key is looked up again after this long: leases may have been given back.
_REFUSED_S = 1.0


class UsageRow(Base):
    """Usage of one account in one minute since the epoch; minute -1 holds the total.

    The requests of a minute include those that a process has leased and not yet used.
    """

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


class Taken(Enum):
    """What a lease gave for one request."""

    NOTHING = 0
    """Nothing: it is used up, or another minute has begun."""
    REQUEST = 1
    """One request."""
    REQUEST_OF_LAST = 2
    """One of its last requests: the next lease is due."""


@dataclass(frozen=True)
class Remaining:
    """What a key may still use, as this process knows.

    Attributes:
        requests: In the present minute.
        tokens: Of the quota; None is unlimited.
    """

    requests: int
    tokens: int | None


@dataclass(slots=True)
class _LeasedAccount:
    """One account as this process sees it.

    Attributes:
        minute: The minute that the lease is for.
        left: Requests of the lease that are not used.
        low: With so many left, the next lease is due.
        unleased: What was left of the limit after the lease.
        refused_until: The database had nothing left; seconds since the epoch.
        tokens: Total in the database.
        new_requests: Used, and not yet in the database's total.
        new_tokens: Used, and not yet in the database.
    """

    minute: int = -1
    left: int = 0
    low: int = -1
    unleased: int = 0
    refused_until: float = 0.0
    tokens: int = 0
    new_requests: int = 0
    new_tokens: int = 0


_UNKNOWN = _LeasedAccount()


@dataclass(frozen=True)
class _Usage:
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class _Report:
    """What one process reports of one account: its use, and the requests that it gives back."""

    account: str
    used: _Usage
    minute: int
    returned: int


class RateLimiter:
    """Counts requests and tokens of accounts; safe to share between threads.

    Args:
        database: Holds the counts of all processes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._accounts: dict[str, _LeasedAccount] = {}
        # Held for arithmetic only, never during an access to the database.
        self._lock = Lock()
        database.ensure(UsageRow)

    def take(self, key: KeyRecord, at: float | None = None) -> Taken:
        """Count one request from the lease, without the database.

        Raises:
            RateLimitError: The minute's limit is used up.
            QuotaError: The token quota is used up.
        """
        now = time.time() if at is None else at
        allowance = key.allowance
        with self._lock:
            account = self._accounts.get(key.parent or key.id)
            if account is None or account.minute != now // 60:
                return Taken.NOTHING
            quota = allowance.token_quota
            if quota is not None and account.tokens + account.new_tokens >= quota:
                raise QuotaError(
                    f"Key {key.id} has used its quota of {quota} tokens.",
                    "Ask for a key with a higher quota: waiting does not help.",
                )
            left = account.left
            if left <= 0:
                if now >= account.refused_until:
                    return Taken.NOTHING
                raise RateLimitError(
                    f"Key {key.id} may make {allowance.requests_per_minute} requests a minute.",
                    "Wait for the next minute, or ask for a key with a higher limit.",
                    retry_after_s=max(1, math.ceil(60 - now % 60)),
                )
            # Counted only now: a rejected request does not use up the limit.
            account.left = left - 1
            account.new_requests += 1
            return Taken.REQUEST_OF_LAST if left == account.low else Taken.REQUEST

    def lease(self, key: KeyRecord, wanted: int = 1, at: float | None = None) -> None:
        """Lease a share of the key's minute; blocking, so call it in a thread.

        Args:
            key: Its account and limit.
            wanted: Requests that wait for it: the lease has as many, if as many are left.
            at: Seconds since the epoch; now by default.
        """
        now = time.time() if at is None else at
        minute, limit, name = int(now // 60), key.allowance.requests_per_minute, key.account
        granted = 0
        while True:
            with self._database.session() as session:
                stored = _read(session, name, minute)
            if minute not in stored:
                self._insert_rows(name, minute)
                continue
            unleased = limit - stored[minute].requests
            share = min(max(unleased // _SHARE, wanted, 1), unleased)
            # Another process may have leased in between: then look again.
            if share <= 0 or self._lease_requests(name, minute, share, limit):
                granted = max(0, share)
                break
        with self._lock:
            account = self._accounts.setdefault(name, _LeasedAccount())
            if account.minute != minute:
                account.minute, account.left = minute, 0
            account.left += granted
            # Of a few, the next lease would be held back from processes with requests to answer.
            account.low = account.left // 4 if granted > max(4, wanted) else -1
            account.unleased = max(0, unleased - granted)
            account.tokens = stored.get(_TOTAL, _Usage()).tokens
            if not granted:
                account.refused_until = now + _REFUSED_S

    def remaining_of(self, key: KeyRecord) -> Remaining:
        """What the key may still use; requests that others leased meanwhile are not counted."""
        account = self._accounts.get(key.account) or _UNKNOWN
        quota = key.allowance.token_quota
        tokens = None if quota is None else max(0, quota - account.tokens - account.new_tokens)
        return Remaining(account.left + account.unleased, tokens)

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        """Count the tokens of a model request against the key's quota."""
        with self._lock:
            account = self._accounts.setdefault(key.account, _LeasedAccount())
            account.new_tokens += spent.total_tokens

    def sync(self) -> bool:
        """Write this process's counts and give idle leases back; blocking.

        Returns:
            Whether requests are leased that another call may give back.
        """
        with self._lock:
            reports = list(self._collect())
        totals: dict[str, int] = {}
        try:
            if reports:
                totals = self._write(reports)
        finally:
            with self._lock:
                self._apply(reports, totals)
                holds_leases = any(account.left > 0 for account in self._accounts.values())
        return holds_leases

    def _collect(self) -> Iterable[_Report]:
        minute = int(time.time() // 60)
        for name, account in list(self._accounts.items()):
            used = _Usage(account.new_requests, account.new_tokens)
            returned = 0
            if not used.requests:
                returned, account.left = account.left, 0
                # The next request asks again.
                account.refused_until = 0.0
            if returned or used.requests or used.tokens:
                # Counted as stored from now on: what is spent meanwhile is new.
                account.new_requests = account.new_tokens = 0
                account.tokens += used.tokens
                yield _Report(name, used, account.minute, returned)
            elif account.minute < minute - 1:
                # Whoever comes back reads his counts again.
                del self._accounts[name]

    def _apply(self, reports: Iterable[_Report], totals: Mapping[str, int]) -> None:
        for report in reports:
            # Another thread's call may have dropped an account that was idle for minutes.
            account = self._accounts.setdefault(report.account, _LeasedAccount())
            if report.account in totals:
                account.tokens = totals[report.account]
            else:
                # Nothing was written; the next call reports it again.
                account.tokens -= report.used.tokens
                account.new_requests += report.used.requests
                account.new_tokens += report.used.tokens

    def _write(self, reports: Iterable[_Report]) -> dict[str, int]:
        """Write the reports in one transaction; each account's tokens in all."""
        totals: dict[str, int] = {}
        with self._database.session() as session:
            # In one order in all processes: rows that are locked in two would end in a deadlock.
            for report in sorted(reports, key=lambda report: report.account):
                _add(session, report.account, _TOTAL, report.used)
                if report.minute >= 0:
                    used = _Usage(-report.returned, report.used.tokens)
                    _add(session, report.account, report.minute, used)
                totals[report.account] = spent_tokens(session, report.account)
        return totals

    def _lease_requests(self, name: str, minute: int, share: int, limit: int) -> bool:
        # The condition makes the lease atomic: together the processes never exceed the limit.
        statement = (
            update(UsageRow)
            .where(
                UsageRow.account == name,
                UsageRow.minute == minute,
                UsageRow.requests <= limit - share,
            )
            .values(requests=UsageRow.requests + share)
        )
        with self._database.session() as session:
            return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]

    def _insert_rows(self, name: str, minute: int) -> None:
        """Begin a minute of an account, and delete those of which the hour has passed."""
        old = (UsageRow.account == name, UsageRow.minute.between(0, minute - _KEPT_MINUTES))
        for slot in (minute, _TOTAL):
            try:
                with self._database.session() as session:
                    if session.get(UsageRow, (name, slot)) is None:
                        session.add(UsageRow(account=name, minute=slot, requests=0, tokens=0))
            except IntegrityError:
                # Another process inserted the row first.
                continue
        with self._database.session() as session:
            session.execute(delete(UsageRow).where(*old))


def spent_tokens(session: Session, account: str) -> int:
    """Tokens that an account has used, as far as the processes have written them."""
    query = select(UsageRow.tokens).where(UsageRow.account == account, UsageRow.minute == _TOTAL)
    return session.scalar(query) or 0


def _add(session: Session, name: str, minute: int, usage: _Usage) -> None:
    statement = (
        update(UsageRow)
        .where(UsageRow.account == name, UsageRow.minute == minute)
        .values(
            requests=UsageRow.requests + usage.requests,
            tokens=UsageRow.tokens + usage.tokens,
        )
    )
    # An account that spends before it leased; where another process inserts the row at the same
    # time, the transaction fails and the report is repeated.
    if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
        session.add(UsageRow(account=name, minute=minute, **vars(usage)))
        session.flush()


def _read(session: Session, account: str, minute: int) -> Mapping[int, _Usage]:
    query = select(UsageRow).where(
        UsageRow.account == account, UsageRow.minute.in_((minute, _TOTAL))
    )
    return {row.minute: _Usage(row.requests, row.tokens) for row in session.scalars(query)}
