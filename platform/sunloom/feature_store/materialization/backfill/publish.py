"""Files of a backfill: each is there whole or not at all, under a name that says what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.core.files import atomic_path, write_atomic
from sunloom.feature_store.materialization.backfill.grid import TimeRange

MANIFEST = "manifest.json"
PARAMETERS = "parameters.json"
_DATA = "data"


def chunk_path(folder: Path, span: TimeRange, part: int) -> Path:
    """Where a chunk's rows lie."""
    return folder / _DATA / span.name / f"part={part:04d}.parquet"


def whole_rows(path: Path) -> int | None:
    """Rows of a published file; None where there is none or it is damaged."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError):
        # pyarrow's ArrowInvalid is a ValueError: a torn disk, not a torn write.
        return None


def publish(frame: pl.DataFrame, path: Path) -> None:
    """Write the rows; a reader sees all of them or no file."""
    with atomic_path(path) as partial:
        frame.write_parquet(partial)


def publish_json(value: Mapping[str, Any], path: Path) -> None:
    """The same for a record."""
    write_atomic(path, json.dumps(value, indent=2, default=str) + "\n")
