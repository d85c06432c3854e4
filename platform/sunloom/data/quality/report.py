"""What checks found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sunloom.data.quality.drift.compare import FeatureDrift


@dataclass(frozen=True)
class CheckResult:
    """One check's result.

    Attributes:
        check: Kind of check.
        feature: Column or columns; ``*`` for the whole table.
        value: What was found: mostly the share of rows that pass.
        threshold: Its bound.
        passed: Whether the value keeps to the bound.
        failed: Rows that fail.
        rows: Rows that were judged.
        reason: What is wrong with a row that fails, in words.
        examples: Some of these rows: ``row`` (position from 1), ``value``, ``keys``.
    """

    check: str
    feature: str
    value: float
    threshold: float
    passed: bool
    failed: int = 0
    rows: int = 0
    reason: str = ""
    examples: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"examples": [dict(example) for example in self.examples]}


@dataclass(frozen=True)
class Profile:
    """What a column looks like.

    Attributes:
        feature: Column.
        dtype: Type as checked.
        rows: Rows.
        missing: Null or NaN.
        minimum, maximum, mean: Of numbers; None otherwise.
        counts: Rows in equally wide cells between minimum and maximum of the first chunk.
        common: Most frequent texts of the first chunk with their counts.
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
    """Two distributions on the same cells, for a picture.

    Attributes:
        labels: First and last bound, or the names of the cells.
        reference, current: Share of the rows in each cell.
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
        shapes: Distributions of the compared columns.
        created_at: UTC.
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
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """Columns that drifted."""
        return tuple(one for one in self.drift if one.drifted)

    @property
    def passed(self) -> bool:
        """Whether every check passed and no column drifted."""
        return not self.failures and not self.drifted

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "passed": self.passed,
            "input": self.name,
            "rows": self.rows,
            "checks": [check.to_dict() for check in self.checks],
            "drift": [one.to_dict() for one in self.drift],
            "quarantine": _text(self.quarantine),
            "report": _text(self.html),
            "created_at": self.created_at.isoformat(),
        }

    def with_files(self, **files: Path | None) -> QualityReport:
        """The same report, naming where its files lie."""
        return replace(self, **files)  # type: ignore[arg-type]

    def summary(self) -> str:
        """The verdict in one sentence."""
        parts = [f"{one.feature}: {one.check} {one.value:.4g}" for one in self.failures]
        parts += [f"{one.feature}: {one.method} {one.value:.4g}" for one in self.drifted]
        judged = f"{len(self.checks)} checks on {self.rows:,} rows"
        return f"{judged}: {'; '.join(parts)}" if parts else f"{judged}: all passed"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
