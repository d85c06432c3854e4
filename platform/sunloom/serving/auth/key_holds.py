"""What keys hold at this moment in all processes: reserved tokens, open streams.

Where an app has one replica, that process knows it alone. With several, each would allow the whole
bound: they then keep what is held in the database.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import BigInteger, ColumnElement, Float, String, delete, func, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.core.database import Base, Database
from sunloom.core.telemetry import get_logger
from sunloom.serving.auth.rate_limits import UsageRow, spent_tokens

# What a process that was killed held is free again after this long.
_LIFE_S = 30.0
_RENEWAL_S = 10.0
_logger = get_logger("serving.holds")


class HoldRow(Base):
    """One hold; the row without a holder is locked by whoever changes those of its account."""

    __tablename__ = "api_key_holds"

    account: Mapped[str] = mapped_column(String(20), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    holder: Mapped[str] = mapped_column(String(32), primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    expires_s: Mapped[float] = mapped_column(Float)
    """Seconds since the epoch."""


class KeyHolds:
    """Holds of one kind on one database; exact over all processes that share it.

    Args:
        database: Holds those of all processes.
        kind: ``tokens`` or ``streams``.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, database: Database, kind: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._kind = kind
        self._clock = clock
        self._own: set[tuple[str, str]] = set()
        self._renewal: asyncio.Task[None] | None = None
        database.ensure(HoldRow, UsageRow)

    @asynccontextmanager
    async def hold(self, account: str, amount_of: Callable[[int, int], int]) -> AsyncIterator[int]:
        """Hold an amount while the block runs.

        Args:
            account: The key's.
            amount_of: Gives the amount from what is held and the tokens that the account has spent;
                0 holds nothing. What it raises is raised here.

        Yields:
            The amount.
        """
        take = asyncio.create_task(asyncio.to_thread(self.take, account, amount_of))
        try:
            holder, amount = await asyncio.shield(take)
        except asyncio.CancelledError:
            # The thread goes on, and would leave its row behind.
            await asyncio.wait([take])
            if take.exception() is None:
                await asyncio.to_thread(self.release, account, take.result()[0])
            raise
        if self._own and self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        try:
            yield amount
        finally:
            # To its end, whoever cancels the request.
            await asyncio.shield(asyncio.to_thread(self.release, account, holder))

    def take(self, account: str, amount_of: Callable[[int, int], int]) -> tuple[str, int]:
        """Hold an amount; blocking.

        Returns:
            The holder's name, empty where nothing is held, and the amount.
        """
        holder = secrets.token_hex(8)
        while True:
            try:
                with self._database.session() as session:
                    self._lock(session, account)
                    now = self._clock()
                    held = self._sum_of_holds(session, account, now)
                    amount = amount_of(held, spent_tokens(session, account))
                    if amount <= 0:
                        return "", 0
                    session.add(
                        HoldRow(
                            account=account,
                            kind=self._kind,
                            holder=holder,
                            amount=amount,
                            expires_s=now + _LIFE_S,
                        )
                    )
            except IntegrityError:
                # Another process inserted the account's first row at the same time.
                continue
            self._own.add((account, holder))
            return holder, amount

    def release(self, account: str, holder: str) -> None:
        """Give back what a holder has; blocking."""
        self._own.discard((account, holder))
        if holder:
            with self._database.session() as session:
                own = (*self._rows(account), HoldRow.holder == holder)
                session.execute(delete(HoldRow).where(*own))

    def renew(self) -> None:
        """Prolong what this process holds; blocking."""
        holders = [holder for _, holder in list(self._own)]
        statement = (
            update(HoldRow)
            .where(HoldRow.kind == self._kind, HoldRow.holder.in_(holders))
            .values(expires_s=self._clock() + _LIFE_S)
        )
        with self._database.session() as session:
            session.execute(statement)

    def _lock(self, session: Session, account: str) -> None:
        # First of all a write: PostgreSQL then locks the row, SQLite the file, until the commit,
        # and what is read afterwards is what every other process has committed.
        anchor = update(HoldRow).where(*self._rows(account), HoldRow.holder == "").values(amount=0)
        if not session.execute(anchor).rowcount:  # type: ignore[attr-defined]
            row = HoldRow(account=account, kind=self._kind, holder="", amount=0, expires_s=0.0)
            session.add(row)
            session.flush()

    def _sum_of_holds(self, session: Session, account: str, now: float) -> int:
        expired = (HoldRow.holder != "", HoldRow.expires_s < now)
        session.execute(delete(HoldRow).where(*self._rows(account), *expired))
        query = select(func.sum(HoldRow.amount)).where(*self._rows(account))
        return int(session.scalar(query) or 0)

    def _rows(self, account: str) -> tuple[ColumnElement[bool], ...]:
        return HoldRow.account == account, HoldRow.kind == self._kind

    async def _renew(self) -> None:
        while self._own:
            await asyncio.sleep(_RENEWAL_S)
            try:
                await asyncio.to_thread(self.renew)
            except SQLAlchemyError as error:
                _logger.warning("holds could not be renewed, trying again: %s", error)
        self._renewal = None
