"""The files of a backfill: each is there whole or not at all, named after its chunk."""

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
