"""The quarantine: rows that cannot be used, as JSON lines with their position and reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

from sunloom.core.files import atomic_path

POSITION = "position"
"""Column of raw and parsed tables: the row's position in its source, from 1."""
REASON = "reason"
"""Column of parsed tables: why the row cannot be used; null where it can."""


@dataclass(frozen=True)
class Damaged:
    """A row that could not be read.

    Attributes:
        source: The file.
        position: Line number, from 1.
        reason: Why.
        content: The row's text, its first 500 characters.
    """

    source: str
    position: int
    reason: str
    content: str


def write_quarantine(rows: pl.DataFrame, path: Path) -> dict[str, int]:
    """Write rows as JSON lines in source order.

    Args:
        rows: With ``position`` and ``reason``.
        path: The quarantine file.

    Returns:
        Reason to number of rows, the most frequent first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = rows.sort(POSITION)
    ordered.write_ndjson(path)
    counts = ordered[REASON].value_counts(sort=True)
    return dict(zip(counts[REASON], counts["count"], strict=True))


class QuarantineWriter:
    """Writes a quarantine file row by row, whole or not at all.

    Without a row there is no file, and an earlier run's is removed.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._target = path
        self._file: IO[str] | None = None
        self._open = ExitStack()
        self.path: Path | None = None

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self._target is None:
            return
        if self._file is None:
            # An earlier run's file would be taken for rows of this one.
            self._target.unlink(missing_ok=True)
            return
        # Closes the file first; only then, and without an error, it takes its place.
        self._open.__exit__(kind, *rest)
        if kind is None:
            self.path = self._target

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row: ``position``, ``reason``, ``content`` and, if need be, ``source``."""
        if self._target is None:
            return
        if self._file is None:
            partial = self._open.enter_context(atomic_path(self._target))
            self._file = self._open.enter_context(partial.open("w", encoding="utf-8"))
        self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
