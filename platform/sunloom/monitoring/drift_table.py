"""The database table of drift reports (``drift_reports``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Integer, Select, String, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, UtcDateTime, open_database, utc_now
from sunloom.data.quality.drift.compare import DriftReport, FeatureDrift


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
    database = open_database(settings)
    database.ensure(DriftRow)
    with database.session() as session:
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


def link_report(settings: Settings, name: str, current: str, html: Path) -> None:
    """Name the page of a stored report, the newest of that name and window."""
    newest = select(func.max(DriftRow.id)).where(DriftRow.name == name, DriftRow.current == current)
    with open_database(settings).session() as session:
        session.execute(
            update(DriftRow).where(DriftRow.id == newest.scalar_subquery()).values(html=str(html))
        )


def unlink_reports(settings: Settings, pages: Sequence[Path]) -> None:
    """Remove the names of pages that were deleted."""
    # The figures stay when the page is deleted: reports over time need no page.
    deleted = [str(page) for page in pages]
    with open_database(settings).session() as session:
        session.execute(update(DriftRow).where(DriftRow.html.in_(deleted)).values(html=None))


def latest_drift(settings: Settings) -> list[StoredDriftReport]:
    """The newest report of each name, by name."""
    # By id, because two reports may have one time.
    newest = select(func.max(DriftRow.id)).group_by(DriftRow.name)
    query = select(DriftRow).where(DriftRow.id.in_(newest)).order_by(DriftRow.name)
    return _read_reports(settings, query)


def drift_over_time(settings: Settings, name: str, most: int = 500) -> list[StoredDriftReport]:
    """A name's reports, newest first."""
    query = select(DriftRow).where(DriftRow.name == name).order_by(DriftRow.id.desc()).limit(most)
    return _read_reports(settings, query)


def _read_reports(settings: Settings, query: Select[DriftRow]) -> list[StoredDriftReport]:
    database = open_database(settings)
    database.ensure(DriftRow)
    with database.session() as session:
        return [
            StoredDriftReport(
                report=row.name,
                reference=row.reference,
                current=row.current,
                reference_rows=row.reference_rows,
                current_rows=row.current_rows,
                drifted_features=sum(feature["drifted"] for feature in row.features),
                features=tuple(FeatureDrift(**feature) for feature in row.features),
                html=row.html,
                # Both files have one name in one folder, so the table stores the page's alone.
                json=str(Path(row.html).with_suffix(".json")) if row.html else None,
                created_at=row.created_at.isoformat(),
            )
            for row in session.scalars(query)
        ]
