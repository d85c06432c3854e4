"""Verdicts in the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Integer, String, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, UtcDateTime, open_database
from sunloom.data.quality.report import QualityReport


class QualityRow(Base):
    """One verdict."""

    __tablename__ = "quality_reports"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    passed: Mapped[bool] = mapped_column(Boolean)
    rows: Mapped[int] = mapped_column(Integer)
    checks: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    drift: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    report: Mapped[str | None] = mapped_column(String(2000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "passed": self.passed,
            "rows": self.rows,
            "checks": self.checks,
            "drift": self.drift,
            "report": self.report,
            "created_at": self.created_at.isoformat(),
        }


def store_checks(settings: Settings, name: str, report: QualityReport) -> None:
    """Keep a verdict under a name; its example rows stay in the report's files."""
    database = open_database(settings)
    database.ensure(QualityRow)
    plain = report.to_dict()
    with database.session() as session:
        session.add(
            QualityRow(
                name=name,
                passed=report.passed,
                rows=report.rows,
                checks=[_finite(check) | {"examples": []} for check in plain["checks"]],
                drift=[_finite(one) for one in plain["drift"]],
                report=plain["report"],
                created_at=report.created_at,
            )
        )


def latest_checks(settings: Settings) -> list[dict[str, Any]]:
    """The newest verdict of each name, by name."""
    database = open_database(settings)
    database.ensure(QualityRow)
    newest = select(func.max(QualityRow.id)).group_by(QualityRow.name)
    query = select(QualityRow).where(QualityRow.id.in_(newest)).order_by(QualityRow.name)
    with database.session() as session:
        return [row.to_dict() for row in session.scalars(query)]


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON of PostgreSQL knows no infinity."""
    return {
        name: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for name, value in entry.items()
    }
