"""Quality and performance of each window, in the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, open_database, utc_now


class ResultRow(Base):
    """What a monitor found of one window."""

    __tablename__ = "monitor_results"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    monitor: Mapped[str] = mapped_column(String(200), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    start: Mapped[datetime] = mapped_column(UtcDateTime)
    end: Mapped[datetime] = mapped_column(UtcDateTime)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "monitor": self.monitor,
            "window": f"{self.start.isoformat()}/{self.end.isoformat()}",
            **self.data,
            "created_at": self.created_at.isoformat(),
        }


def store_result(
    database: Database, monitor: str, kind: str, span: tuple[datetime, datetime], data: Any
) -> None:
    """Keep one window's figures; those of the same window are replaced."""
    database.ensure(ResultRow)
    mine = (ResultRow.monitor == monitor, ResultRow.kind == kind, ResultRow.start == span[0])
    with database.session() as session:
        session.execute(delete(ResultRow).where(*mine))
        session.add(
            ResultRow(
                monitor=monitor,
                kind=kind,
                start=span[0],
                end=span[1],
                data=data,
                created_at=utc_now(),
            )
        )


def latest_results(settings: Settings, kind: str) -> list[dict[str, Any]]:
    """The newest window of each monitor, by name."""
    database = open_database(settings)
    database.ensure(ResultRow)
    newest = (
        select(ResultRow.monitor, func.max(ResultRow.start).label("start"))
        .where(ResultRow.kind == kind)
        .group_by(ResultRow.monitor)
        .subquery()
    )
    on = (ResultRow.monitor == newest.c.monitor) & (ResultRow.start == newest.c.start)
    query = select(ResultRow).join(newest, on).where(ResultRow.kind == kind)
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query.order_by(ResultRow.monitor))]


def results_over_time(settings: Settings, kind: str, monitor: str, most: int = 500) -> list[Any]:
    """A monitor's windows, newest first."""
    database = open_database(settings)
    database.ensure(ResultRow)
    query = (
        select(ResultRow)
        .where(ResultRow.kind == kind, ResultRow.monitor == monitor)
        .order_by(ResultRow.start.desc())
        .limit(most)
    )
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query)]


def forget_results(database: Database, monitor: str, before: datetime) -> None:
    """Drop what is older."""
    database.ensure(ResultRow)
    with database.session() as session:
        session.execute(
            delete(ResultRow).where(ResultRow.monitor == monitor, ResultRow.start < before)
        )
