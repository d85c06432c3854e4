"""Files of a backfill: each is there whole or not at all, under a name that says what it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    frame.write_parquet(partial)
    _settle(partial, path)


def publish_json(value: Mapping[str, Any], path: Path) -> None:
    """The same for a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n")
    _settle(partial, path)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for partial in folder.rglob(".*.new"):
        partial.unlink(missing_ok=True)


def _settle(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
