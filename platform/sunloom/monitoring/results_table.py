"""The database table of each window's figures (``monitor_results``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, String, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, open_database, utc_now
from sunloom.monitoring.windows import TimeSpan


class ResultRow(Base):
    """Figures of one window: quality, performance, cost or skew."""

    __tablename__ = "monitor_results"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    monitor: Mapped[str] = mapped_column(String(200), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    start: Mapped[datetime] = mapped_column(UtcDateTime)
    end: Mapped[datetime] = mapped_column(UtcDateTime)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class WindowFigures:
    """Stored figures of one window.

    Attributes:
        monitor: The monitor, or the feature set.
        window: Start and end, ISO 8601.
        data: The figures of their kind.
        created_at: ISO 8601, UTC.
    """

    monitor: str
    window: str
    data: Mapping[str, Any]
    created_at: str


def store_result(
    database: Database, monitor: str, kind: str, span: TimeSpan, data: Mapping[str, Any]
) -> None:
    """Store one window's figures; those of the same window are replaced."""
    database.ensure(ResultRow)
    is_same = (ResultRow.monitor == monitor, ResultRow.kind == kind, ResultRow.start == span.start)
    with database.session() as session:
        # Not a merge: the primary key is a number, and the start is what names the window.
        session.execute(delete(ResultRow).where(*is_same))
        session.add(
            ResultRow(
                monitor=monitor,
                kind=kind,
                start=span.start,
                end=span.end,
                data=dict(data),
                created_at=utc_now(),
            )
        )


def latest_results(settings: Settings, kind: str) -> list[WindowFigures]:
    """The newest window of each monitor, by name."""
    database = open_database(settings)
    database.ensure(ResultRow)
    # By start, not by id: a window that is counted again gets a new id, but is not newer.
    newest = (
        select(ResultRow.monitor, func.max(ResultRow.start).label("start"))
        .where(ResultRow.kind == kind)
        .group_by(ResultRow.monitor)
        .subquery()
    )
    on = (ResultRow.monitor == newest.c.monitor) & (ResultRow.start == newest.c.start)
    query = select(ResultRow).join(newest, on).where(ResultRow.kind == kind)
    with database.session() as session:
        return [_figures(row) for row in session.scalars(query.order_by(ResultRow.monitor))]


def results_over_time(
    settings: Settings, kind: str, monitor: str, most: int = 500
) -> list[WindowFigures]:
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
        return [_figures(row) for row in session.scalars(query)]


def _figures(row: ResultRow) -> WindowFigures:
    return WindowFigures(
        monitor=row.monitor,
        window=f"{row.start.isoformat()}/{row.end.isoformat()}",
        data=row.data,
        created_at=row.created_at.isoformat(),
    )


def delete_results_before(database: Database, monitor: str, limit: datetime) -> None:
    """Delete the figures of windows before the limit."""
    database.ensure(ResultRow)
    with database.session() as session:
        session.execute(
            delete(ResultRow).where(ResultRow.monitor == monitor, ResultRow.start < limit)
        )
