"""The report of a validation: results of checks, drift, column profiles, and its stored verdict.

Verdicts are stored in the database table ``quality_reports``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Boolean, Integer, String, func, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, copy_row, open_database
from sunloom.data.quality.drift import DriftShape, FeatureDrift
from sunloom.data.quality.profiles import Profile


@dataclass(frozen=True)
class RowExample:
    """A row that fails a check.

    Attributes:
        row: Position in the source, from 1.
        value: The value at fault as the source has it, or values by column; plain JSON data.
        keys: The row's key columns.
    """

    row: int
    value: Any
    keys: Mapping[str, Any]


# A class of its own: in JSON the other examples have no ``reason``.
@dataclass(frozen=True)
class DamagedExample(RowExample):
    """A row that cannot be read.

    Attributes:
        reason: Why it cannot.
    """

    reason: str


@dataclass(frozen=True)
class CheckResult:
    """One check's result.

    Attributes:
        check: Kind of check.
        feature: Column or columns; ``*`` for the whole table.
        value: The measured value: mostly the share of rows that pass.
        threshold: Its bound.
        passed: Whether the value keeps to the bound.
        failed: Rows that fail.
        rows: Rows that were checked.
        reason: What is wrong with a row that fails, in words.
        examples: Some of these rows.
    """

    check: str
    feature: str
    value: float
    threshold: float
    passed: bool
    failed: int = 0
    rows: int = 0
    reason: str = ""
    examples: tuple[RowExample, ...] = ()


@dataclass(frozen=True)
class QualityReport:
    """The verdict on a table.

    Attributes:
        name: The input.
        rows: Rows read.
        checks: In the order in which they are listed.
        drift: Columns that were compared with the reference, or cannot be; empty without one.
        profiles: One a column.
        created_at: UTC.
        drift_skipped: What has too few values to be judged; None where all have enough.
        shapes: Distributions of the compared columns.
        quarantine: File with the rows that made a check fail, if there are any.
        html: The report for people, where written.
        json: The report for programs, where written.
    """

    name: str
    rows: int
    checks: tuple[CheckResult, ...]
    drift: tuple[FeatureDrift, ...]
    profiles: tuple[Profile, ...]
    created_at: datetime
    drift_skipped: str | None = None
    shapes: Mapping[str, DriftShape] = field(default_factory=dict)
    quarantine: Path | None = None
    html: Path | None = None
    json: Path | None = None

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def drifted_columns(self) -> tuple[FeatureDrift, ...]:
        """Columns that drifted, or cannot be compared."""
        return tuple(column for column in self.drift if column.drifted)

    @property
    def is_passed(self) -> bool:
        """Whether every check passed, and every compared column is steady."""
        return not self.failures and not self.drifted_columns

    def to_dict(self) -> dict[str, Any]:
        """The report as the command line, ``report.json`` and the database have it."""
        return {
            "passed": self.is_passed,
            "input": self.name,
            "rows": self.rows,
            "checks": [asdict(check) for check in self.checks],
            "drift": [asdict(column) for column in self.drift],
            "drift_skipped": self.drift_skipped,
            "quarantine": None if self.quarantine is None else str(self.quarantine),
            "report": None if self.html is None else str(self.html),
            "created_at": self.created_at.isoformat(),
        }

    def summary(self) -> str:
        """The verdict in one sentence."""
        parts = [f"{check.feature}: {check.check} {check.value:.4g}" for check in self.failures]
        parts += [f"{column.feature}: {column.outcome}" for column in self.drifted_columns]
        counts = f"{len(self.checks)} checks on {self.rows:,} rows"
        verdict = "; ".join(parts) or "all passed"
        skipped = f"; {self.drift_skipped.removesuffix('.')}" if self.drift_skipped else ""
        return f"{counts}: {verdict}{skipped}"


def null_infinite(value: Any) -> Any:
    """The data with null for infinite numbers and NaN, which JSON does not know."""
    # The age of a table without a time is infinite, and a statistic may be NaN.
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: null_infinite(item) for key, item in value.items()}
    return [null_infinite(item) for item in value] if isinstance(value, list | tuple) else value


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
    database = open_database(settings, QualityRow)
    # By id, because two verdicts may have one time.
    newest = select(func.max(QualityRow.id)).group_by(QualityRow.name)
    query = select(QualityRow).where(QualityRow.id.in_(newest)).order_by(QualityRow.name)
    with database.session() as session:
        return [
            copy_row(row, StoredVerdict, created_at=row.created_at.isoformat())
            for row in session.scalars(query)
        ]
