"""Keys: stored as hashes in the database, with scopes, tenant, expiry, limits and quota."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.config.loading.durations import parse_duration
from sunloom.core.database import Base, Database, UtcDateTime, open_database, utc_now
from sunloom.errors import NotFoundError, PermissionDeniedError, UsageError

SCOPES = ("llm", "features", "agents", "train", "models", "admin")
PREFIX = "sl-"


class KeyRow(Base):
    """One key; its secret is known to its holder only."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    shown: Mapped[str] = mapped_column(String(20))
    tenant: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    requests_per_minute: Mapped[int] = mapped_column(Integer)
    token_quota: Mapped[int | None] = mapped_column(Integer)
    parent: Mapped[str | None] = mapped_column(String(20))
    purpose: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key without its secret.

    Attributes:
        id: Name of the key in lists, logs and revocations.
        shown: First characters, to recognise it by.
        tenant: Whose it is.
        scopes: What it may do; ``admin`` may do everything.
        requests_per_minute: Limit over all apps together.
        token_quota: Model tokens it may use in all; None is unlimited.
        parent: The key it was delegated from.
        purpose: Free words, such as the agent that holds it.
        created_at: UTC.
        expires_at: UTC; None never expires.
        revoked_at: UTC; None is not revoked.
    """

    id: str
    shown: str
    tenant: str
    scopes: tuple[str, ...]
    requests_per_minute: int
    token_quota: int | None
    parent: str | None
    purpose: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def account(self) -> str:
        """The key whose limits are used up: a delegated key spends its parent's."""
        return self.parent or self.id

    def is_valid(self, at: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    def may(self, scope: str | None) -> bool:
        """Whether it grants a scope; None asks for any valid key."""
        return scope is None or scope in self.scopes or "admin" in self.scopes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        times = ("created_at", "expires_at", "revoked_at")
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return data | {name: data[name].isoformat() if data[name] else None for name in times}


def create_key(
    settings: Settings,
    scopes: Sequence[str],
    tenant: str = "default",
    expires: timedelta | str | None = None,
    *,
    requests_per_minute: int | None = None,
    token_quota: int | None = None,
    purpose: str = "",
) -> tuple[str, KeyRecord]:
    """Make a key; the secret is returned once and never stored.

    Args:
        settings: The platform's settings.
        scopes: Some of ``SCOPES``.
        tenant: Whose key it is.
        expires: Life of the key, such as ``30d`` or ``12h``; None never expires.
        requests_per_minute: Limit over all apps; the configured default when None.
        token_quota: Model tokens in all.
        purpose: Free words to recognise it by.

    Raises:
        UsageError: Unknown scope, none at all, or a duration that cannot be read.
    """
    limit = requests_per_minute or settings.serving.keys.requests_per_minute
    return _insert(
        open_keys(settings),
        _checked(scopes),
        tenant,
        key_lifetime(expires),
        limit,
        token_quota,
        None,
        purpose,
    )


def delegate(
    settings: Settings,
    parent: KeyRecord,
    scopes: Sequence[str],
    *,
    expires: timedelta | str | None = None,
    purpose: str = "agent",
) -> tuple[str, KeyRecord]:
    """Make a short-lived child of a key: fewer scopes, never more, and the parent's limits.

    Raises:
        PermissionDeniedError: The parent lacks a scope.
    """
    lacking = [scope for scope in _checked(scopes) if not parent.may(scope)]
    if lacking:
        raise PermissionDeniedError(
            f"Key {parent.id} cannot hand on what it lacks: {', '.join(lacking)}."
        )
    default = timedelta(seconds=settings.serving.keys.delegated_ttl_s)
    life = key_lifetime(expires) or default
    return _insert(
        open_keys(settings),
        scopes,
        parent.tenant,
        life,
        parent.requests_per_minute,
        parent.token_quota,
        parent.account,
        purpose,
    )


def system_key(settings: Settings, scopes: Sequence[str], life: timedelta) -> str:
    """A short-lived key for the platform's own requests, such as the readiness probe."""
    limit = settings.serving.keys.requests_per_minute
    database = open_keys(settings)
    with database.session() as session:
        old = (KeyRow.parent.is_not(None), KeyRow.expires_at < utc_now() - timedelta(days=1))
        session.execute(delete(KeyRow).where(*old))
    secret, _ = _insert(database, scopes, "system", life, limit, None, "system", "probe")
    return secret


def list_keys(settings: Settings, *, delegated: bool = False) -> list[KeyRecord]:
    """All keys, oldest first; delegated ones on request."""
    query = select(KeyRow).order_by(KeyRow.created_at)
    if not delegated:
        query = query.where(KeyRow.parent.is_(None))
    with open_keys(settings).session() as session:
        return [_record(row) for row in session.scalars(query)]


def revoke_key(settings: Settings, key_id: str) -> KeyRecord:
    """Revoke a key and everything delegated from it; processes follow within seconds.

    Raises:
        NotFoundError: No key has this id.
    """
    with open_keys(settings).session() as session:
        row = session.get(KeyRow, key_id)
        if row is None:
            known = session.scalars(select(KeyRow.id).where(KeyRow.parent.is_(None))).all()
            raise NotFoundError(f"There is no key {key_id!r}.", known=known, name=key_id)
        row.revoked_at = row.revoked_at or utc_now()
        session.execute(
            update(KeyRow)
            .where(KeyRow.parent == key_id, KeyRow.revoked_at.is_(None))
            .values(revoked_at=row.revoked_at)
        )
        return _record(row)


def find_key(settings: Settings, secret: str) -> KeyRecord | None:
    """The record of a secret, valid or not."""
    with open_keys(settings).session() as session:
        row = session.scalar(select(KeyRow).where(KeyRow.digest == digest(secret)))
        return _record(row) if row is not None else None


def ensure_first_key(settings: Settings) -> tuple[str, KeyRecord] | None:
    """In development, make one key with every scope where no key would be let in."""
    usable = any(record.is_valid(utc_now()) for record in list_keys(settings))
    if settings.environment != "development" or usable:
        return None
    return create_key(settings, SCOPES, purpose="first key")


def digest(secret: str) -> str:
    """What is stored of a secret; it has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_lifetime(expires: timedelta | str | None) -> timedelta | None:
    """How long a key is valid: ``30d``, ``1.5h``, ``15m``, ``45s`` or ``2w``; None never expires.

    Raises:
        UsageError: The text is no duration.
    """
    if expires is None or isinstance(expires, timedelta):
        return expires
    try:
        return parse_duration(expires)
    except ValueError as error:
        raise UsageError(
            f"{expires!r} is not a duration.", "Use 30d, 12h, 15m or 45s.", "expires"
        ) from error


def open_keys(settings: Settings) -> Database:
    """The database with its key table in place."""
    database = open_database(settings)
    database.ensure(KeyRow)
    return database


def _checked(scopes: Iterable[str]) -> list[str]:
    chosen = list(dict.fromkeys(scopes))
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        what = f"Unknown scope {unknown[0]!r}." if unknown else "A key needs a scope."
        raise UsageError(what, f"Known: {', '.join(SCOPES)}", "scopes")
    return chosen


def _insert(
    database: Database,
    scopes: Sequence[str],
    tenant: str,
    life: timedelta | None,
    requests_per_minute: int,
    token_quota: int | None,
    parent: str | None,
    purpose: str,
) -> tuple[str, KeyRecord]:
    secret = PREFIX + secrets.token_urlsafe(32)
    row = KeyRow(
        id=f"key_{secrets.token_hex(6)}",
        digest=digest(secret),
        shown=secret[:9] + "…",
        tenant=tenant,
        scopes=list(scopes),
        requests_per_minute=requests_per_minute,
        token_quota=token_quota,
        parent=parent,
        purpose=purpose,
        created_at=utc_now(),
        expires_at=utc_now() + life if life else None,
        revoked_at=None,
    )
    with database.session() as session:
        session.add(row)
    return secret, _record(row)


def _record(row: KeyRow) -> KeyRecord:
    fields = {name: getattr(row, name) for name in KeyRecord.__dataclass_fields__}
    return KeyRecord(**fields | {"scopes": tuple(row.scopes)})
