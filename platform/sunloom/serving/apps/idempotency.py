"""``Idempotency-Key``: a POST that creates something does it once, however often it is sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import JSON, String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.errors import ConflictError, RequestError

KEPT = timedelta(hours=24)
"""How long an answer is remembered."""
ABANDONED = timedelta(minutes=2)
"""After this an unfinished request counts as lost."""
_LONGEST_KEY = 200


class IdempotencyRow(Base):
    """A request that was sent with a key, and its answer once there is one."""

    __tablename__ = "idempotency"

    tenant: Mapped[str] = mapped_column(String(100), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(_LONGEST_KEY), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    created_at: Mapped[Any] = mapped_column(UtcDateTime, default=utc_now)


class IdempotentRequests:
    """Remembers the answers of requests that carry a key.

    Args:
        database: Where they are remembered, for all processes alike.
    """

    def __init__(self, database: Database) -> None:
        database.ensure(IdempotencyRow)
        self._database = database

    async def once(
        self,
        tenant: str,
        route: str,
        key: str | None,
        body: Any,
        produce: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Produce the answer, or repeat the one that the same key got before.

        Args:
            tenant: Whose key it is; tenants do not see each other's.
            route: Path of the request.
            key: The header; without one the answer is always produced.
            body: The request's body, which must be the same each time.
            produce: Does the work.

        Raises:
            RequestError: The key was used with another body, or is too long.
            ConflictError: The first request with this key is still under way.
        """
        if key is None:
            return await produce()
        if not 0 < len(key) <= _LONGEST_KEY:
            raise RequestError(f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters.")
        fresh = IdempotencyRow(tenant=tenant, route=route, key=key, digest=_digest(body))
        held = await asyncio.to_thread(self._take, fresh)
        if held is not None:
            return held
        try:
            answer = await produce()
        except BaseException:
            # Nothing was created: the same key may try again.
            await asyncio.to_thread(self._forget, fresh)
            raise
        await asyncio.to_thread(self._remember, fresh, answer)
        return answer

    def _take(self, fresh: IdempotencyRow) -> dict[str, Any] | None:
        try:
            with self._database.session() as session:
                held = session.get(IdempotencyRow, _identity(fresh))
                if held is not None and not _is_over(held):
                    return _answer_of(held, fresh)
                if held is not None:
                    session.delete(held)
                    session.flush()
                session.add(_copy(fresh))
                return None
        except IntegrityError:
            # Another process was faster by an instant.
            with self._database.session() as session:
                return _answer_of(session.get_one(IdempotencyRow, _identity(fresh)), fresh)

    def _remember(self, fresh: IdempotencyRow, answer: dict[str, Any]) -> None:
        with self._database.session() as session:
            session.get_one(IdempotencyRow, _identity(fresh)).answer = answer

    def _forget(self, fresh: IdempotencyRow) -> None:
        with self._database.session() as session:
            _delete(session, fresh)


def _answer_of(held: IdempotencyRow, fresh: IdempotencyRow) -> dict[str, Any]:
    if held.digest != fresh.digest:
        raise RequestError(
            f"Idempotency-Key {fresh.key!r} was used with another body.",
            "Use a new key for a new request.",
            "Idempotency-Key",
        )
    if held.answer is None:
        raise ConflictError(
            f"The first request with Idempotency-Key {fresh.key!r} is still under way.",
            "Send it again in a moment.",
        )
    return held.answer


def _is_over(held: IdempotencyRow) -> bool:
    age = utc_now() - held.created_at
    return bool(age > (KEPT if held.answer is not None else ABANDONED))


def _delete(session: Session, fresh: IdempotencyRow) -> None:
    held = session.get(IdempotencyRow, _identity(fresh))
    if held is not None:
        session.delete(held)


def _identity(row: IdempotencyRow) -> tuple[str, str, str]:
    return (row.tenant, row.route, row.key)


def _copy(fresh: IdempotencyRow) -> IdempotencyRow:
    return IdempotencyRow(
        tenant=fresh.tenant, route=fresh.route, key=fresh.key, digest=fresh.digest
    )


def _digest(body: Any) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
