"""The scan of a plan: which columns of which files it reads, whole or in splits for workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.data.sources.table_files import FileSplit, data_files, split_file
from sunloom.errors import NotFoundError, UsageError
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import SourceProjection, source_projections
from sunloom.features.sources.typed_rows import TypedRows, conform, read_source, read_source_file

SPLIT_ROWS = 500_000
# Text takes more room as columns than as a file.
_TEXT_GROWTH = 2

_log = get_logger("features.sources")


@dataclass(frozen=True)
class SourceSplit:
    """What one worker reads of a class's source.

    Attributes:
        source: Namespace of the class.
        projection: Its columns, and how its rows are partitioned.
        rows: The part of a file.
    """

    source: str
    projection: SourceProjection
    rows: FileSplit

    @property
    def size_bytes(self) -> int:
        """Bytes of the split's columns in memory, about."""
        is_text = not self.rows.row_groups and not self.rows.file.endswith(".parquet")
        return self.rows.size_bytes * (_TEXT_GROWTH if is_text else 1)

    def read(self, plan: Plan) -> TypedRows:
        """The rows in declared types."""
        item, names = plan.class_plan(self.source), self.projection.columns
        # Only Parquet is split: other files have no row groups, and are read whole.
        if not self.rows.row_groups:
            return read_source_file(item, names, Path(self.rows.file))
        frame = self.rows.read_parquet(names)
        # Positions count within the file, from 1, whichever worker reads the split.
        first = self.rows.first_row + 1
        positions = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
        return conform(frame, item, names, self.rows.file, positions)


@dataclass(frozen=True)
class SourceScan:
    """What a plan reads from its sources, derived once for all steps of a computation.

    Attributes:
        plan: What is computed.
        paths: Namespace to the file or folder with its rows.
    """

    plan: Plan
    paths: Mapping[str, Path]

    @cached_property
    def projections(self) -> Mapping[str, SourceProjection]:
        """Namespace to the columns that are read, of the classes that have a source."""
        return {n: p for n, p in self._all_projections.items() if n in self.paths}

    @cached_property
    def splits(self) -> tuple[SourceSplit, ...]:
        """Everything that is read, in order of insertion."""
        return tuple(
            SourceSplit(name, projection, rows)
            for name, projection in self.projections.items()
            for file in data_files(self.paths[name])
            for rows in split_file(file, projection.columns, SPLIT_ROWS)
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all splits in memory, about."""
        return sum(split.size_bytes for split in self.splits)

    def read(self) -> dict[str, TypedRows]:
        """The rows of every source, by namespace."""
        return {
            name: read_source(self.plan.class_plan(name), projection.columns, self.paths[name])
            for name, projection in self.projections.items()
        }

    def require_sources(self) -> None:
        """Check that every source is known and every needed one is given.

        Raises:
            NotFoundError: A source names no class of the plan's definitions.
            UsageError: Rows that an aggregate or a join needs have no source.
        """
        for namespace in self._all_projections:
            if namespace in self.paths:
                continue
            if namespace != self.plan.namespace:
                raise UsageError(
                    f"Feature set {self.plan.feature_set!r} needs rows of {namespace!r}, and no "
                    "source is given for them.",
                    f"Add --source {namespace}=PATH. Given: {', '.join(self.paths) or 'none'}.",
                    "source",
                )
            # The root's own features may be null, or come with the query.
            _log.warning("no source for %s: its own features are null", namespace)
        known = [item.namespace for item in self.plan.classes]
        for namespace in self.paths:
            if namespace not in known:
                raise NotFoundError(
                    f"Source {namespace!r} belongs to no class that {self.plan.feature_set!r} "
                    "uses.",
                    known=known,
                    name=namespace,
                    param="source",
                )

    @cached_property
    def _all_projections(self) -> Mapping[str, SourceProjection]:
        return source_projections(self.plan)


def open_scan(plan: Plan, paths: Mapping[str, Path]) -> SourceScan:
    """The scan of a plan, its sources checked.

    Raises:
        NotFoundError: A source names no class of the plan's definitions.
        UsageError: Rows that an aggregate or a join needs have no source.
    """
    scan = SourceScan(plan, paths)
    scan.require_sources()
    return scan
