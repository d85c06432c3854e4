"""Served feature values: a sample with its as-of times, to be compared with offline values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime

KEPT = 10_000
"""Results of a feature set that are kept, the newest."""


class ServedRow(Base):
    """One entity of one result."""

    __tablename__ = "served_answers"

    # The columns keep the names of the tables that exist: nothing here migrates a database.
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    feature_set: Mapped[str] = mapped_column(String(200), index=True)
    entity_id: Mapped[Any] = mapped_column(JSON)
    moment: Mapped[datetime] = mapped_column(UtcDateTime)
    features: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True)
class ServedResult:
    """An entity's feature values as they were served.

    Attributes:
        feature_set: The set.
        entity_id: The entity.
        moment: As-of time, UTC.
        features: Feature to value, in JSON's types.
    """

    feature_set: str
    entity_id: Any
    moment: datetime
    features: Mapping[str, Any]


def store_served(database: Database, results: Sequence[ServedResult]) -> None:
    """Add results; the oldest beyond ``KEPT`` of a set are deleted."""
    database.ensure(ServedRow)
    with database.session() as session:
        session.add_all(ServedRow(**vars(result)) for result in results)
        # The count below must see the new rows.
        session.flush()
        # Each set has its own limit: one that is read often must not displace the others.
        for name in {result.feature_set for result in results}:
            is_own = ServedRow.feature_set == name
            count = session.scalar(select(func.count()).where(is_own)) or 0
            if count > KEPT:
                newest_first = select(ServedRow.id).where(is_own).order_by(ServedRow.id.desc())
                last_deleted = session.scalar(newest_first.offset(KEPT).limit(1))
                session.execute(delete(ServedRow).where(is_own, ServedRow.id <= last_deleted))


def latest_served(database: Database, feature_set: str, count: int) -> list[ServedResult]:
    """The newest results of a set, oldest first."""
    database.ensure(ServedRow)
    query = select(ServedRow).where(ServedRow.feature_set == feature_set)
    with database.session() as session:
        rows = session.scalars(query.order_by(ServedRow.id.desc()).limit(count)).all()
        return [
            ServedResult(row.feature_set, row.entity_id, row.moment, row.features)
            for row in reversed(rows)
        ]
