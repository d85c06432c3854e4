"""Fitted pipeline: transforms frames, training rows and single rows the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.preprocessing.column_kinds import Kind, kind_of, require_kind
from sunloom.preprocessing.operations.protocol import RowFunction
from sunloom.preprocessing.row_checks import build_row_check, infinite_error
from sunloom.preprocessing.stages import Stage, apply_stages, row_functions
from sunloom.preprocessing.tables.batches import Batch


@dataclass(frozen=True)
class FitReport:
    """What fitting has read and found.

    Attributes:
        rows: Rows of the table.
        passes: Times that the table was read.
        notes: What a user should know, such as columns that were left out.
        rank_error: Most by which a quantile can be off, as a share of the values.
        versions: Library to version.
        fingerprint: The artifact's, once it is loaded from one.
    """

    rows: int
    passes: int
    notes: list[str]
    rank_error: float
    versions: Mapping[str, str]
    fingerprint: str = ""


@dataclass(frozen=True)
class FittedPipeline:
    """Steps of a recipe, fitted.

    Attributes:
        recipe: The recipe as plain data.
        schema: Columns that are read, with their types when fitting.
        stages: Operations, one stage per step.
        outputs: Columns of a prepared table of the fitted schema, with their types, in order.
        report: What fitting has read and found.
    """

    recipe: Any
    schema: Mapping[str, pl.DataType]
    stages: tuple[Stage, ...]
    outputs: Mapping[str, str]
    report: FitReport

    def apply_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Transform rows; their number and order stay, and so do columns that no step is for.

        Raises:
            DataError: A column is missing or of another type, or holds an infinite value or a
                level that is refused.
        """
        self._check(frame)
        return apply_stages(frame, self.stages)

    def training_frame(self, batch: Batch) -> pl.DataFrame:
        """Transform rows that the pipeline was fitted on: target encodings are out-of-fold.

        Only right after fitting: an artifact does not hold the folds.
        """
        self._check(batch.rows)
        return apply_stages(batch.rows, self.stages, batch)

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Transform one row; null is None.

        Raises:
            DataError: As ``apply_frame``.
        """
        prepared = dict(row)
        for function in self._row_functions:
            function(prepared)
        return prepared

    @cached_property
    def _row_functions(self) -> tuple[RowFunction, ...]:
        # Built once: what an operation needs per row is then in the closure of its function.
        return (build_row_check(self.kinds), *row_functions(self.stages))

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """Kind of each column that is read."""
        return {name: kind_of(dtype) for name, dtype in self.schema.items()}

    def _check(self, frame: pl.DataFrame) -> None:
        # Checked here: an error of an expression would name Polars' nodes and not the column.
        require_columns(frame, self.schema, "The table")
        floats = []
        for name, kind in self.kinds.items():
            # A column of 0 and 1 may come as true and false.
            accepted: tuple[Kind, ...] = ("number", "bool") if kind == "number" else (kind,)
            require_kind(frame.schema, [name], accepted, "The artifact")
            if frame.schema[name].is_float():
                floats.append(name)
        if floats and frame.height:
            # One pass over all float columns.
            infinite = frame.select(pl.col(floats).is_infinite().any()).row(0, named=True)
            for name, is_infinite in infinite.items():
                if is_infinite:
                    raise infinite_error(name)
