"""The result of a historical computation, and the quarantine of rows that could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.data.quarantine import REASON
from sunloom.errors import DataQualityError
from sunloom.features.engine.counters import Counters

_log = get_logger("features.historical")


@dataclass(frozen=True)
class HistoricalResult:
    """Features of rows, and the source rows that could not be read.

    Attributes:
        table: The entities' rows with one column a feature appended.
        damaged: Source rows that could not be read.
        rows_read: Source rows that were read, damaged ones included.
        counters: Values outside declared limits, and resolver calls that failed.
    """

    table: pl.DataFrame
    damaged: pl.DataFrame = field(default_factory=pl.DataFrame)
    rows_read: int = 0
    counters: Counters = field(default_factory=Counters)


def quarantine_damaged(
    damaged: pl.DataFrame, rows_read: int, path: Path, max_bad_share: float
) -> dict[str, int]:
    """Write the source rows that could not be read, if there are any, and count their reasons.

    Args:
        damaged: The rows, with their reasons.
        rows_read: Source rows that were read, damaged ones included.
        path: JSON lines, written only where there is a row.
        max_bad_share: Share of damaged rows from which the computation stops.

    Raises:
        DataQualityError: Their share is above the threshold.
    """
    if damaged.is_empty():
        return {}
    path.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_ndjson(path)
    counted = damaged[REASON].value_counts(sort=True)
    counts = dict(zip(counted[REASON], counted["count"], strict=True))
    if damaged.height > max_bad_share * rows_read:
        raise DataQualityError(
            f"{damaged.height} of {rows_read} source rows cannot be read, more than "
            f"{max_bad_share:.2%} ({', '.join(f'{why}: {n}' for why, n in counts.items())}).",
            f"Look at {path}; mend the source or raise the threshold.",
        )
    _log.warning("%d source rows are quarantined in %s", damaged.height, path)
    return counts
