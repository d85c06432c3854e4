"""Answers that were served: a sample with its moments, to be replayed offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime

KEPT = 10_000
"""How many answers of a feature set are kept, newest."""


class ServedRow(Base):
    """One entity of one answer."""

    __tablename__ = "served_answers"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    feature_set: Mapped[str] = mapped_column(String(200), index=True)
    entity_id: Mapped[Any] = mapped_column(JSON)
    moment: Mapped[datetime] = mapped_column(UtcDateTime)
    features: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True)
class Served:
    """What an entity's features were answered to be.

    Attributes:
        feature_set: The set.
        entity_id: The entity.
        moment: As of when, UTC.
        features: Feature to value, in JSON's types.
    """

    feature_set: str
    entity_id: Any
    moment: datetime
    features: Mapping[str, Any]


def store_served(database: Database, answers: Sequence[Served]) -> None:
    """Add answers; the oldest beyond ``KEPT`` of a set go."""
    database.ensure(ServedRow)
    with database.session() as session:
        session.add_all(ServedRow(**vars(one)) for one in answers)
        session.flush()
        for name in {one.feature_set for one in answers}:
            mine = ServedRow.feature_set == name
            held = session.scalar(select(func.count()).where(mine)) or 0
            if held > KEPT:
                edge = select(ServedRow.id).where(mine).order_by(ServedRow.id.desc())
                floor = session.scalar(edge.offset(KEPT).limit(1))
                session.execute(delete(ServedRow).where(mine, ServedRow.id <= floor))


def latest_served(database: Database, feature_set: str, count: int) -> list[Served]:
    """The newest answers of a set, oldest first."""
    database.ensure(ServedRow)
    query = select(ServedRow).where(ServedRow.feature_set == feature_set)
    with database.session() as session:
        rows = session.scalars(query.order_by(ServedRow.id.desc()).limit(count)).all()
        return [Served(r.feature_set, r.entity_id, r.moment, r.features) for r in reversed(rows)]
