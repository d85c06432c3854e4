"""The database table of verdicts on tables (``quality_reports``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Integer, String, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, open_database
from sunloom.data.quality.report import QualityReport, null_infinite


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


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict as ``GET /monitoring/quality`` gives it.

    Attributes:
        name: Name under which it was stored.
        passed: Whether every check passed and no column drifted.
        rows: Rows read.
        checks, drift: Fields of ``CheckResult`` and of ``FeatureDrift``, as plain data.
        report: Path of the HTML report.
        created_at: ISO 8601, UTC.
    """

    name: str
    passed: bool
    rows: int
    checks: list[dict[str, Any]]
    drift: list[dict[str, Any]]
    report: str | None
    created_at: str


def store_verdict(database: Database, name: str, report: QualityReport) -> None:
    """Store a verdict under a name; its example rows stay in the report's files."""
    database.ensure(QualityRow)
    # PostgreSQL's JSON refuses infinite numbers, such as the age of an empty table's newest row.
    plain = null_infinite(report.to_dict())
    with database.session() as session:
        session.add(
            QualityRow(
                name=name,
                passed=report.is_passed,
                rows=report.rows,
                checks=[check | {"examples": []} for check in plain["checks"]],
                drift=plain["drift"],
                report=plain["report"],
                created_at=report.created_at,
            )
        )


def latest_verdicts(settings: Settings) -> list[StoredVerdict]:
    """The newest verdict of each name, by name."""
    database = open_database(settings)
    database.ensure(QualityRow)
    # By id, because two verdicts may have one time.
    newest = select(func.max(QualityRow.id)).group_by(QualityRow.name)
    query = select(QualityRow).where(QualityRow.id.in_(newest)).order_by(QualityRow.name)
    with database.session() as session:
        return [
            StoredVerdict(
                name=row.name,
                passed=row.passed,
                rows=row.rows,
                checks=row.checks,
                drift=row.drift,
                report=row.report,
                created_at=row.created_at.isoformat(),
            )
            for row in session.scalars(query)
        ]
