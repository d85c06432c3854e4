"""Idempotent requests: a POST with ``Idempotency-Key`` does its work once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header, Request
from sqlalchemy import JSON, String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.errors import ConflictError, RequestError
from sunloom.serving.auth.middleware import tenant_of

KEPT = timedelta(hours=24)
"""How long a response is stored."""
ABANDONED = timedelta(minutes=2)
"""After this time an unfinished request counts as lost."""
_LONGEST_KEY = 200
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same key does the work once."),
]
"""Parameter of a route that takes the header."""


class IdempotencyRow(Base):
    """A request with a key, and its response once there is one."""

    __tablename__ = "idempotency"

    tenant: Mapped[str] = mapped_column(String(100), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(_LONGEST_KEY), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    # none_as_null: SQL's NULL for a request without a response yet, not JSON's null.
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    created_at: Mapped[Any] = mapped_column(UtcDateTime, default=utc_now)


class IdempotentRequests:
    """Stores the responses of requests with a key.

    Args:
        database: Database that all replicas share.
    """

    def __init__(self, database: Database) -> None:
        database.ensure(IdempotencyRow)
        self._database = database

    async def run_once(
        self,
        request: Request,
        key: str | None,
        body: Any,
        produce: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Produce the response, or return the one that the same key got before.

        Args:
            request: Its path, and its caller's tenant: keys of different tenants are independent.
            key: The header; without one the response is always produced.
            body: The request's body, which must be the same each time.
            produce: Does the work.

        Raises:
            RequestError: The key was used with another body, or is too long.
            ConflictError: The first request with this key is still running.
        """
        # Idempotency is the client's choice.
        if key is None:
            return await produce()
        if not 0 < len(key) <= _LONGEST_KEY:
            raise RequestError(f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters.")
        # Sorted: a client may write the same fields in another order.
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
        keyed = _KeyedRequest(
            tenant=tenant_of(request.scope),
            # No path of a resource that exists is longer than the column.
            route=request.scope["path"][:200],
            key=key,
            digest=hashlib.sha256(canonical.encode()).hexdigest(),
        )
        stored = await asyncio.to_thread(self._begin, keyed)
        if stored is not None:
            return stored
        try:
            answer = await produce()
        # Also a cancelled request, whose CancelledError is no Exception, releases the key.
        except BaseException:
            # Nothing was created: the same key may try again.
            await asyncio.to_thread(self._delete, keyed)
            raise
        await asyncio.to_thread(self._store, keyed, answer)
        return answer

    def _begin(self, request: _KeyedRequest) -> dict[str, Any] | None:
        """Reserve the key for this request; the stored response if there is one."""
        try:
            with self._database.session() as session:
                row = session.get(IdempotencyRow, request.identity)
                if row is not None:
                    kept = KEPT if row.answer is not None else ABANDONED
                    if utc_now() - row.created_at <= kept:
                        return _response_of(row, request)
                    session.delete(row)
                    session.flush()
                session.add(IdempotencyRow(**vars(request)))
                return None
        except IntegrityError:
            # Another process inserted the row between the read and the commit.
            with self._database.session() as session:
                row = session.get_one(IdempotencyRow, request.identity)
                return _response_of(row, request)

    def _store(self, request: _KeyedRequest, answer: dict[str, Any]) -> None:
        with self._database.session() as session:
            session.get_one(IdempotencyRow, request.identity).answer = answer

    def _delete(self, request: _KeyedRequest) -> None:
        with self._database.session() as session:
            row = session.get(IdempotencyRow, request.identity)
            if row is not None:
                session.delete(row)


@dataclass(frozen=True, kw_only=True)
class _KeyedRequest:
    tenant: str
    route: str
    key: str
    digest: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """Primary key of its row."""
        return (self.tenant, self.route, self.key)


def _response_of(row: IdempotencyRow, request: _KeyedRequest) -> dict[str, Any]:
    if row.digest != request.digest:
        raise RequestError(
            f"Idempotency-Key {request.key!r} was used with another body.",
            "Use a new key for a new request.",
            "Idempotency-Key",
        )
    if row.answer is None:
        raise ConflictError(
            f"The first request with Idempotency-Key {request.key!r} is still running.",
            "Send it again in a moment.",
        )
    return row.answer
