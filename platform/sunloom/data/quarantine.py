"""Rows that cannot be used: written aside with reason and position, and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.data.datasets import POSITION, REASON
from sunloom.errors import DataQualityError


@dataclass(frozen=True)
class Summary:
    """What a preparation did with its rows.

    Attributes:
        rows_in: Rows of the source.
        rows_out: Rows of the main table.
        quarantined: Reason to number of rows set aside.
        kept: Unusual rows that stayed, by name.
    """

    rows_in: int
    rows_out: int
    quarantined: Mapping[str, int]
    kept: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_out + self.bad:
            raise DataQualityError(
                f"{self.rows_in} rows came in, but {self.rows_out} went out and {self.bad} "
                "were set aside: rows were lost or doubled on the way."
            )

    @property
    def bad(self) -> int:
        """Rows set aside, all reasons."""
        return sum(self.quarantined.values())

    @property
    def bad_share(self) -> float:
        """Share of the rows that was set aside."""
        return self.bad / self.rows_in if self.rows_in else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def check(self, max_bad_share: float, quarantine: Path) -> None:
        """Stop above the threshold.

        Raises:
            DataQualityError: Names shares, reasons and the quarantine file.
        """
        if self.bad_share <= max_bad_share:
            return
        reasons = ", ".join(f"{reason}: {n}" for reason, n in self.quarantined.items())
        raise DataQualityError(
            f"{self.bad} of {self.rows_in} rows ({self.bad_share:.2%}) are bad, more than "
            f"max_bad_share {max_bad_share:.2%} ({reasons}).",
            f"Look at {quarantine}; then mend the source or raise quality.max_bad_share.",
            "quality.max_bad_share",
        )


def write_quarantine(bad: pl.DataFrame, path: Path) -> dict[str, int]:
    """Write bad rows as JSON lines in source order; return the count of each reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = bad.sort(POSITION)
    ordered.write_ndjson(path)
    counts = ordered[REASON].value_counts(sort=True)
    return dict(zip(counts[REASON], counts["count"], strict=True))
