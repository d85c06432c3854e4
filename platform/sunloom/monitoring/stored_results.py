"""Stored results of monitoring: drift reports, each window's figures, and served feature values.

Their database tables are ``drift_reports``, ``monitor_results`` and ``served_answers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Integer, Select, String, delete, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, copy_row, open_database, utc_now
from sunloom.monitoring.windows import TimeSpan

if TYPE_CHECKING:
    from sunloom.data.quality.drift import DriftReport, FeatureDrift

KEPT = 10_000
"""Served results of a feature set that are kept, the newest."""

# Bounds what one request reads of a monitor's past.
_MOST_READ = 500


class DriftRow(Base):
    """One drift report."""

    __tablename__ = "drift_reports"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    reference: Mapped[str] = mapped_column(String(100))
    current: Mapped[str] = mapped_column(String(100))
    reference_rows: Mapped[int] = mapped_column(Integer)
    current_rows: Mapped[int] = mapped_column(Integer)
    features: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    html: Mapped[str | None] = mapped_column(String(2000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class StoredDriftReport:
    """A drift report as ``GET /monitoring/drift`` gives it.

    Attributes:
        report: Name of the report or monitor.
        reference, current: The compared periods or windows.
        reference_rows, current_rows: Their rows.
        drifted_features: Number of features that drifted.
        features: Each feature's comparison.
        html, json: Evidently's page and its figures, where written.
        created_at: ISO 8601, UTC.
    """

    report: str
    reference: str
    current: str
    reference_rows: int
    current_rows: int
    drifted_features: int
    features: Sequence[FeatureDrift]
    html: str | None
    json: str | None
    created_at: str


def store_drift(
    settings: Settings, name: str, reference: str, current: str, report: DriftReport
) -> None:
    """Store a report under its name."""
    with open_database(settings, DriftRow).session() as session:
        session.add(
            DriftRow(
                name=name,
                reference=reference,
                current=current,
                reference_rows=report.reference_rows,
                current_rows=report.current_rows,
                features=[asdict(feature) for feature in report.features],
                html=str(report.html) if report.html else None,
                created_at=utc_now(),
            )
        )


def link_page(
    settings: Settings, name: str, current: str, page: Path, deleted: Sequence[Path]
) -> None:
    """Name the page of the newest report of that name and window; deleted pages lose their names.

    The figures stay when a page is deleted: reports over time need no page.
    """
    newest = select(func.max(DriftRow.id)).where(DriftRow.name == name, DriftRow.current == current)
    change = update(DriftRow)
    with open_database(settings).session() as session:
        session.execute(
            change.where(DriftRow.id == newest.scalar_subquery()).values(html=str(page))
        )
        is_deleted = DriftRow.html.in_([str(path) for path in deleted])
        session.execute(change.where(is_deleted).values(html=None))


def latest_drift(settings: Settings) -> list[StoredDriftReport]:
    """The newest report of each name, by name."""
    # By id, because two reports may have one time.
    newest = select(func.max(DriftRow.id)).group_by(DriftRow.name)
    query = select(DriftRow).where(DriftRow.id.in_(newest)).order_by(DriftRow.name)
    return _read_reports(settings, query)


def drift_over_time(settings: Settings, name: str) -> list[StoredDriftReport]:
    """A name's reports, newest first."""
    query = select(DriftRow).where(DriftRow.name == name).order_by(DriftRow.id.desc())
    return _read_reports(settings, query.limit(_MOST_READ))


def _read_reports(settings: Settings, query: Select[DriftRow]) -> list[StoredDriftReport]:
    # Here, not at the top: replicas store served values without loading Polars.
    from sunloom.data.quality.drift import FeatureDrift

    with open_database(settings, DriftRow).session() as session:
        return [
            copy_row(
                row,
                StoredDriftReport,
                report=row.name,
                drifted_features=sum(feature["drifted"] for feature in row.features),
                features=tuple(FeatureDrift(**feature) for feature in row.features),
                # Both files have one name in one folder, so the table stores the page's alone.
                json=str(Path(row.html).with_suffix(".json")) if row.html else None,
                created_at=row.created_at.isoformat(),
            )
            for row in session.scalars(query)
        ]


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
    # By start, not by id: a window that is counted again gets a new id, but is not newer.
    newest = (
        select(ResultRow.monitor, func.max(ResultRow.start).label("start"))
        .where(ResultRow.kind == kind)
        .group_by(ResultRow.monitor)
        .subquery()
    )
    on = (ResultRow.monitor == newest.c.monitor) & (ResultRow.start == newest.c.start)
    query = select(ResultRow).join(newest, on).where(ResultRow.kind == kind)
    return _read_figures(settings, query.order_by(ResultRow.monitor))


def results_over_time(settings: Settings, kind: str, monitor: str) -> list[WindowFigures]:
    """A monitor's windows, newest first."""
    query = select(ResultRow).where(ResultRow.kind == kind, ResultRow.monitor == monitor)
    return _read_figures(settings, query.order_by(ResultRow.start.desc()).limit(_MOST_READ))


def _read_figures(settings: Settings, query: Select[ResultRow]) -> list[WindowFigures]:
    with open_database(settings, ResultRow).session() as session:
        return [
            copy_row(
                row,
                WindowFigures,
                window=f"{row.start.isoformat()}/{row.end.isoformat()}",
                created_at=row.created_at.isoformat(),
            )
            for row in session.scalars(query)
        ]


def delete_results_before(database: Database, monitor: str, limit: datetime) -> None:
    """Delete the figures of windows before the limit."""
    database.ensure(ResultRow)
    with database.session() as session:
        session.execute(
            delete(ResultRow).where(ResultRow.monitor == monitor, ResultRow.start < limit)
        )


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
        return [copy_row(row, ServedResult) for row in reversed(rows)]
