"""A fitted recipe: prepares frames, chunks and single rows the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.preprocessing.column_kinds import Kind, kind_of, require_kind
from sunloom.preprocessing.row_checks import infinite_error, row_checker
from sunloom.preprocessing.stages import (
    Stage,
    apply_stages,
    row_functions,
)
from sunloom.preprocessing.tables.batches import Batch


@dataclass(frozen=True)
class FittedPipeline:
    """What a recipe has become.

    Attributes:
        recipe: The recipe as plain data.
        schema: Columns that are read, with their types when fitting.
        stages: Operations, one stage a step.
        outputs: Columns of a prepared table of the fitted schema, with their types, in order.
        about: Rows and passes of fitting, notes, the quantiles' rank error, versions.
    """

    recipe: Any
    schema: Mapping[str, pl.DataType]
    stages: tuple[Stage, ...]
    outputs: Mapping[str, str]
    about: Mapping[str, Any] = field(default_factory=dict)

    def apply_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Prepare rows; their number and order stay, and so do columns that no step is for.

        Raises:
            DataError: A column is missing or of another type, or holds an infinite value or a
                level that is refused.
        """
        self._check(frame)
        return apply_stages(frame, self.stages)

    def training_frame(self, chunk: Batch) -> pl.DataFrame:
        """Prepare rows that the recipe was fitted on: target encodings are out-of-fold.

        Only right after fitting: an artifact does not hold the folds.
        """
        self._check(chunk.rows)
        return apply_stages(chunk.rows, self.stages, chunk)

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare one row; null is None.

        Raises:
            DataError: As ``apply_frame``.
        """
        return self._compiled(row)

    @cached_property
    def _compiled(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        check = row_checker(self.kinds)
        functions = row_functions(self.stages)

        def prepare(row: Mapping[str, Any]) -> dict[str, Any]:
            prepared = check(row)
            for function in functions:
                function(prepared)
            return prepared

        return prepare

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """Kind of each column that is read."""
        return {name: kind_of(dtype) for name, dtype in self.schema.items()}

    def _check(self, frame: pl.DataFrame) -> None:
        require_columns(frame, self.schema, "The table")
        floats = []
        for name, kind in self.kinds.items():
            accepted: tuple[Kind, ...] = ("number", "bool") if kind == "number" else (kind,)
            require_kind(frame.schema, [name], accepted, "The artifact")
            if frame.schema[name].is_float():
                floats.append(name)
        if floats and frame.height:
            infinite = frame.select(pl.col(floats).is_infinite().any()).row(0, named=True)
            if bad := [name for name, is_there in infinite.items() if is_there]:
                raise infinite_error(bad[0])
