"""Grid of a backfill: chunks of time, the as-of times in each, and the files of their rows.

A chunk's file is there whole or not at all, so an interrupted backfill finds what is done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.features import BackfillConfig
from sunloom.core.files import atomic_path, write_atomic
from sunloom.errors import UsageError

MANIFEST = "manifest.json"
PARAMETERS = "parameters.json"
_DATA = "data"
_CHUNKS = 16
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_NAME_FORMAT = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class TimeRange:
    """A chunk's time: from ``start`` on, before ``end``, UTC."""

    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """The name of its folder; names sort by time."""
        return f"from={self.start:{_NAME_FORMAT}}"


@dataclass(frozen=True)
class Grid:
    """What is computed, in whatever order it is done.

    Attributes:
        start: First as-of time.
        end: The end, not in it.
        every: Between as-of times; None where the entities bring their own.
        chunk: Length of a chunk.
        partitions: Partitions by key hash.
    """

    start: datetime
    end: datetime
    every: timedelta | None
    chunk: timedelta
    partitions: int

    def spans(self) -> list[TimeRange]:
        """The chunks' times, one after another."""
        count = math.ceil((self.end - self.start) / self.chunk)
        starts = [self.start + index * self.chunk for index in range(count)]
        return [TimeRange(at, min(at + self.chunk, self.end)) for at in starts]

    def as_of_times(self, span: TimeRange) -> Iterator[datetime]:
        """The as-of times in a chunk."""
        assert self.every is not None
        # Counted from the grid's start, so that no chunk's length shifts them.
        number = math.ceil((span.start - self.start) / self.every)
        while (at := self.start + number * self.every) < span.end:
            yield at
            number += 1


def build_grid(config: BackfillConfig, partitions: int) -> Grid:
    """The grid of a backfill: whole steps a chunk, a sixteenth of the range by default.

    Args:
        config: The recipe's ``backfill``.
        partitions: Partitions by key hash.

    Raises:
        UsageError: The rows go into the offline store, and a chunk begins within a day.
    """
    start, end = config.start.astimezone(UTC), config.end.astimezone(UTC)
    step = config.every or _SECOND
    length = config.chunk or (end - start) / _CHUNKS
    chunk = step * max(1, math.ceil(length / step))
    if config.into_store and config.chunk is None:
        chunk = _DAY * math.ceil(chunk / _DAY)
    grid = Grid(start, end, config.every, chunk, partitions)
    if config.into_store:
        _require_whole_days(grid)
    return grid


def _require_whole_days(grid: Grid) -> None:
    # A chunk replaces its days in the store: no day may be part of two chunks.
    midnight = grid.start.replace(hour=0, minute=0, second=0, microsecond=0)
    if grid.start != midnight or grid.chunk % _DAY:
        raise UsageError(
            f"backfill.into_store needs whole days: start is {grid.start}, chunk {grid.chunk}.",
            "Start at midnight UTC, and make the chunk 1d, 7d, …",
            "backfill.into_store",
        )


def chunk_path(folder: Path, span: TimeRange, partition: int) -> Path:
    """The file of a chunk's rows of one partition."""
    return folder / _DATA / span.name / f"part={partition:04d}.parquet"


def published_rows(path: Path) -> int | None:
    """Rows of a published file; None if it is missing or damaged."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError):
        # pyarrow's ArrowInvalid is a ValueError: a damaged disk, not an unfinished write.
        return None


def publish_rows(frame: pl.DataFrame, path: Path) -> None:
    """Write a chunk's rows; a reader sees all of them or no file."""
    with atomic_path(path) as partial:
        frame.write_parquet(partial)


def publish_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a record in the same way."""
    write_atomic(path, json.dumps(value, indent=2, default=str) + "\n")
