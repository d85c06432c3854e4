"""API keys: stored as hashes in the database, with scopes, tenant, expiry, limits and quota."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config import Settings
from sunloom.config.loading.durations import parse_duration
from sunloom.core.database import Base, Database, UtcDateTime, open_database, utc_now
from sunloom.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    UsageError,
)

SCOPES = ("llm", "features", "ingest", "agents", "train", "models", "admin")
"""``features`` reads features, ``ingest`` writes them; the other names are those of routes."""
PREFIX = "sl-"
_SYSTEM = "system"
_SECRET_BYTES = 32
# As `secrets.token_urlsafe` writes them: base64 without padding.
_WELL_FORMED = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{{math.ceil(_SECRET_BYTES * 4 / 3)}}}")
_LONGEST_LIFE = timedelta(days=36_500)


class KeyRow(Base):
    """One key; only a hash of its secret is stored."""

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


class DelegationRow(Base):
    """The key that a delegated key was made from, which itself may be a delegated one."""

    # Beside the keys, whose table an earlier commit made: no column can be added to it.
    __tablename__ = "api_key_delegations"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    source: Mapped[str] = mapped_column(String(20))


@dataclass(frozen=True)
class Allowance:
    """How much a key may use.

    Attributes:
        requests_per_minute: Limit over all apps together.
        token_quota: Model tokens in all; None is unlimited.
    """

    requests_per_minute: int
    token_quota: int | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        requests_per_minute: int | None = None,
        token_quota: int | None = None,
    ) -> Allowance:
        """The given limits; the configured default where no request limit is given."""
        default = settings.serving.keys.requests_per_minute
        return cls(requests_per_minute or default, token_quota)


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """A key without its secret.

    Attributes:
        id: Name of the key in lists, logs and revocations.
        shown: First characters, to recognise it by.
        tenant: Tenant that it belongs to.
        scopes: Scopes that it grants; ``admin`` grants all.
        allowance: Its limits, or its parent's for a delegated key.
        parent: The key it was delegated from.
        purpose: Free text, such as the agent that holds it.
        created_at: UTC.
        expires_at: UTC; None never expires.
        revoked_at: UTC; None is not revoked.
    """

    id: str
    shown: str
    tenant: str
    scopes: tuple[str, ...]
    allowance: Allowance
    parent: str | None
    purpose: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def account(self) -> str:
        """The key that usage is counted against: a delegated key uses its parent's limits."""
        # An agent must not multiply its caller's limits by delegating keys.
        return self.parent or self.id

    def is_valid(self, at: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    def may(self, scope: str | None) -> bool:
        """Whether it grants a scope; None stands for a route that any valid key may use."""
        return scope is None or scope in self.scopes or "admin" in self.scopes

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON shows it: limits beside the other fields, times as ISO text."""
        data: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Allowance):
                data |= asdict(value)
            else:
                data[name] = value.isoformat() if isinstance(value, datetime) else value
        return data


def create_key(
    settings: Settings,
    scopes: Sequence[str],
    tenant: str = "default",
    expires: timedelta | str | None = None,
    *,
    allowance: Allowance | None = None,
    purpose: str = "",
) -> tuple[str, KeyRecord]:
    """Create a key; the secret is returned once and never stored.

    Args:
        settings: The platform's settings.
        scopes: Some of ``SCOPES``.
        tenant: Tenant that the key belongs to.
        expires: Life of the key, such as ``30d`` or ``12h``; None never expires.
        allowance: Its limits; the configured default when None.
        purpose: Free text to recognise it by.

    Raises:
        UsageError: Unknown scope, none at all, or a duration that cannot be read.
    """
    return _insert(
        settings,
        scopes=_check_scopes(scopes),
        tenant=tenant,
        lifetime=key_lifetime(expires),
        allowance=allowance or Allowance.from_settings(settings),
        parent=None,
        purpose=purpose,
    )


def delegate(
    settings: Settings,
    parent: KeyRecord,
    scopes: Sequence[str],
    *,
    expires: timedelta | str | None = None,
    purpose: str = "agent",
) -> tuple[str, KeyRecord]:
    """Create a short-lived child of a key: some of its scopes, none more, and its limits.

    It expires with its parent at the latest, and is revoked with it.

    Raises:
        AuthenticationError: The parent was revoked or has expired.
        PermissionDeniedError: The parent lacks a scope.
    """
    scopes = _check_scopes(scopes)
    # Read again: the caller's record is as old as his request, which may be an open stream.
    stored = read_key(settings, parent.id)
    if stored is None or not stored.is_valid(utc_now()):
        raise AuthenticationError(
            f"Key {parent.id} was revoked or has expired: it cannot delegate.",
            "Continue with another key.",
        )
    parent = stored
    missing = [scope for scope in scopes if not parent.may(scope)]
    if missing:
        raise PermissionDeniedError(
            f"Key {parent.id} cannot delegate scopes that it lacks: {', '.join(missing)}."
        )
    default = timedelta(seconds=settings.serving.keys.delegated_ttl_s)
    return _insert(
        settings,
        scopes=scopes,
        tenant=parent.tenant,
        lifetime=key_lifetime(expires) or default,
        allowance=parent.allowance,
        # A child of a child counts against the key at the root: one account for the whole chain.
        parent=parent.account,
        purpose=purpose,
        latest=parent.expires_at,
        source=parent.id,
    )


def create_system_key(settings: Settings, scopes: Sequence[str], lifetime: timedelta) -> str:
    """Create a short-lived key for the platform's own requests, such as the readiness probe."""
    # Delegated and system keys are created every few minutes; nobody else removes them.
    with open_keys(settings).session() as session:
        expired = (KeyRow.parent.is_not(None), KeyRow.expires_at < utc_now() - timedelta(days=1))
        session.execute(delete(KeyRow).where(*expired))
        known = select(KeyRow.id).where(KeyRow.parent.is_not(None))
        session.execute(delete(DelegationRow).where(DelegationRow.id.not_in(known)))
    secret, _ = _insert(
        settings,
        scopes=scopes,
        tenant=_SYSTEM,
        lifetime=lifetime,
        allowance=Allowance.from_settings(settings),
        parent=_SYSTEM,
        purpose="probe",
    )
    return secret


def list_keys(settings: Settings, *, delegated: bool = False) -> list[KeyRecord]:
    """All keys, oldest first; with ``delegated``, also those of agents and of the system."""
    query = select(KeyRow).order_by(KeyRow.created_at)
    if not delegated:
        # Agents and probes get keys every few minutes: people's would be hard to find among them.
        query = query.where(KeyRow.parent.is_(None))
    with open_keys(settings).session() as session:
        return [_record_of(row) for row in session.scalars(query)]


def revoke_key(settings: Settings, key_id: str) -> KeyRecord:
    """Revoke a key and everything delegated from it; replicas follow within ``cache_s``.

    Raises:
        NotFoundError: No key has this id.
    """
    with open_keys(settings).session() as session:
        row = session.get(KeyRow, key_id)
        if row is None:
            known = session.scalars(select(KeyRow.id).where(KeyRow.parent.is_(None))).all()
            raise NotFoundError(f"There is no key {key_id!r}.", known=known, name=key_id)
        # A second revocation must not move the time of the first.
        row.revoked_at = row.revoked_at or utc_now()
        # Every key of a chain of delegations names the first one as its parent; those made from
        # a key within the chain are found through it.
        session.execute(
            update(KeyRow)
            .where(KeyRow.parent == key_id, KeyRow.revoked_at.is_(None))
            .values(revoked_at=row.revoked_at)
        )
        return _record_of(row)


def revoke_delegated(settings: Settings, purpose: str) -> None:
    """Revoke the delegated keys of a purpose, such as those of a deleted agent."""
    with open_keys(settings).session() as session:
        session.execute(
            update(KeyRow)
            .where(
                KeyRow.purpose == purpose,
                # Not a key of a person, who may write what he likes there.
                KeyRow.parent.is_not(None),
                KeyRow.revoked_at.is_(None),
            )
            .values(revoked_at=utc_now())
        )


def find_key(settings: Settings, secret: str) -> KeyRecord | None:
    """The record of a secret, valid or not; a delegated key is revoked with those it stems from."""
    # By the hash: how long the comparison takes says nothing about the secret.
    with open_keys(settings).session() as session:
        row = session.scalar(select(KeyRow).where(KeyRow.digest == digest(secret)))
        return _effective_record(session, row) if row is not None else None


def read_key(settings: Settings, key_id: str) -> KeyRecord | None:
    """The record of a key by its id, as ``find_key`` gives it."""
    with open_keys(settings).session() as session:
        row = session.get(KeyRow, key_id)
        return _effective_record(session, row) if row is not None else None


def is_well_formed(secret: str) -> bool:
    """Whether a text could be a key."""
    return _WELL_FORMED.fullmatch(secret) is not None


def ensure_first_key(settings: Settings) -> tuple[str, KeyRecord] | None:
    """In development, create one key with every scope if there is no valid key yet."""
    if settings.environment != "development" or has_valid_key(settings):
        return None
    return create_key(settings, SCOPES, purpose="first key")


def has_valid_key(settings: Settings) -> bool:
    """Whether somebody can enter: there is a key that is neither revoked nor expired."""
    return any(record.is_valid(utc_now()) for record in list_keys(settings))


def digest(secret: str) -> str:
    """The hash that is stored of a secret; 256 random bits need neither salt nor slow hashing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_lifetime(expires: timedelta | str | None) -> timedelta | None:
    """How long a key is valid: ``30d``, ``1.5h``, ``15m``, ``45s`` or ``2w``; None never expires.

    Raises:
        UsageError: The text is no duration.
    """
    if expires is None or isinstance(expires, timedelta):
        return expires
    try:
        lifetime = parse_duration(expires)
        # The end must be a date: whoever means for ever leaves it out.
        if lifetime > _LONGEST_LIFE:
            raise ValueError(expires)
    except ValueError as error:
        raise UsageError(
            f"{expires!r} is not a duration of up to 100 years.",
            "Use 30d, 12h, 15m or 45s.",
            "expires",
        ) from error
    return lifetime


def open_keys(settings: Settings) -> Database:
    """The database, with the key table created."""
    database = open_database(settings)
    database.ensure(KeyRow, DelegationRow)
    return database


def _check_scopes(scopes: Iterable[str]) -> list[str]:
    """The scopes, each once, in their order."""
    unique = list(dict.fromkeys(scopes))
    unknown = [scope for scope in unique if scope not in SCOPES]
    if unknown or not unique:
        problem = f"Unknown scope {unknown[0]!r}." if unknown else "A key needs a scope."
        raise UsageError(problem, f"Known: {', '.join(SCOPES)}", "scopes")
    return unique


def _insert(
    settings: Settings,
    *,
    scopes: Sequence[str],
    tenant: str,
    lifetime: timedelta | None,
    allowance: Allowance,
    parent: str | None,
    purpose: str,
    latest: datetime | None = None,
    source: str | None = None,
) -> tuple[str, KeyRecord]:
    ends = [utc_now() + lifetime] if lifetime else []
    ends += [latest] if latest else []
    secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    row = KeyRow(
        # The id is no secret: it only has to be unique.
        id=f"key_{secrets.token_hex(6)}",
        digest=digest(secret),
        # Enough to recognise a key by, and too little to guess it from.
        shown=secret[:9] + "…",
        tenant=tenant,
        scopes=list(scopes),
        **asdict(allowance),
        parent=parent,
        purpose=purpose,
        created_at=utc_now(),
        expires_at=min(ends, default=None),
        revoked_at=None,
    )
    with open_keys(settings).session() as session:
        session.add(row)
        if source is not None:
            session.add(DelegationRow(id=row.id, source=source))
    return secret, _record_of(row)


def _effective_record(session: Session, row: KeyRow) -> KeyRecord:
    """The record of a row, revoked and expired as soon as a key is that it was made from."""
    record, ancestor = _record_of(row), row
    while (source := _source_of(session, ancestor)) is not None:
        row_of_source = session.get(KeyRow, source)
        if row_of_source is None:
            # Only expired keys are deleted.
            return replace(record, revoked_at=record.revoked_at or record.created_at)
        ancestor = row_of_source
        ends = [at for at in (record.expires_at, ancestor.expires_at) if at is not None]
        record = replace(
            record,
            revoked_at=record.revoked_at or ancestor.revoked_at,
            expires_at=min(ends, default=None),
        )
    return record


def _source_of(session: Session, row: KeyRow) -> str | None:
    if row.parent is None or row.parent == _SYSTEM:
        return None
    delegation = session.get(DelegationRow, row.id)
    # Keys that an earlier commit made name only the first one of their chain.
    return delegation.source if delegation is not None else row.parent


def _record_of(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        shown=row.shown,
        tenant=row.tenant,
        scopes=tuple(row.scopes),
        allowance=Allowance(row.requests_per_minute, row.token_quota),
        parent=row.parent,
        purpose=row.purpose,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
