"""The report of a validation: results of checks, drift, column profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sunloom.data.quality.drift.compare import FeatureDrift


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
class Profile:
    """A column's values at a glance.

    Attributes:
        feature: Column.
        dtype: Type as checked.
        rows: Rows.
        missing: Null or NaN.
        minimum, maximum, mean: Of numbers; None otherwise.
        counts: Rows in equally wide bins between minimum and maximum of the first batch.
        common: Most frequent texts of the first batch with their counts.
    """

    feature: str
    dtype: str
    rows: int
    missing: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    counts: tuple[int, ...] = ()
    common: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class DriftShape:
    """Two distributions on the same bins, for a picture.

    Attributes:
        labels: The bins' edges, or the values.
        reference, current: Share of the rows in each bin.
    """

    labels: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True)
class QualityReport:
    """The verdict on a table.

    Attributes:
        name: The input.
        rows: Rows read.
        checks: In the order in which they are listed.
        drift: Compared columns; empty without a reference.
        profiles: One a column.
        created_at: UTC.
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
        """Columns that drifted."""
        return tuple(column for column in self.drift if column.drifted)

    @property
    def is_passed(self) -> bool:
        """Whether every check passed and no column drifted."""
        return not self.failures and not self.drifted_columns

    def to_dict(self) -> dict[str, Any]:
        """The report as the command line, ``report.json`` and the database have it."""
        return {
            "passed": self.is_passed,
            "input": self.name,
            "rows": self.rows,
            "checks": [asdict(check) for check in self.checks],
            "drift": [asdict(column) for column in self.drift],
            "quarantine": None if self.quarantine is None else str(self.quarantine),
            "report": None if self.html is None else str(self.html),
            "created_at": self.created_at.isoformat(),
        }

    def summary(self) -> str:
        """The verdict in one sentence."""
        parts = [f"{check.feature}: {check.check} {check.value:.4g}" for check in self.failures]
        parts += [f"{one.feature}: {one.method} {one.value:.4g}" for one in self.drifted_columns]
        counts = f"{len(self.checks)} checks on {self.rows:,} rows"
        return f"{counts}: {'; '.join(parts)}" if parts else f"{counts}: all passed"


def null_infinite(value: Any) -> Any:
    """The data with null for infinite numbers and NaN, which JSON does not know."""
    # The age of a table without a time is infinite, and a statistic may be NaN.
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: null_infinite(item) for key, item in value.items()}
    return [null_infinite(item) for item in value] if isinstance(value, list | tuple) else value
