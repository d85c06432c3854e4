"""Drift reports in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Integer, String, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, UtcDateTime, open_database, utc_now
from sunloom.data.quality.drift.compare import DriftReport


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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "report": self.name,
            "reference": self.reference,
            "current": self.current,
            "reference_rows": self.reference_rows,
            "current_rows": self.current_rows,
            "drifted_features": sum(feature["drifted"] for feature in self.features),
            "features": self.features,
            "html": self.html,
            "json": str(Path(self.html).with_suffix(".json")) if self.html else None,
            "created_at": self.created_at.isoformat(),
        }


def store_drift(
    settings: Settings, name: str, reference: str, current: str, report: DriftReport
) -> None:
    """Keep a report under its name."""
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
    """Name pages no longer that are gone."""
    gone = [str(page) for page in pages]
    with open_database(settings).session() as session:
        session.execute(update(DriftRow).where(DriftRow.html.in_(gone)).values(html=None))


def latest_drift(settings: Settings) -> list[dict[str, Any]]:
    """The newest report of each name, by name."""
    database = open_database(settings)
    database.ensure(DriftRow)
    newest = select(func.max(DriftRow.id)).group_by(DriftRow.name)
    query = select(DriftRow).where(DriftRow.id.in_(newest)).order_by(DriftRow.name)
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query)]


def drift_over_time(settings: Settings, name: str, most: int = 500) -> list[dict[str, Any]]:
    """A name's reports, newest first."""
    database = open_database(settings)
    database.ensure(DriftRow)
    query = select(DriftRow).where(DriftRow.name == name).order_by(DriftRow.id.desc()).limit(most)
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query)]
