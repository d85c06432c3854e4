"""Protocol of an operation: what a fitted step does to a frame, and to one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import polars as pl

from sunloom.preprocessing.tables.batches import Batch

RowFunction: TypeAlias = Callable[[dict[str, Any]], None]
Training: TypeAlias = Batch | None
"""The batch of the table that is being fitted; None for rows of any other table."""


class Operation(Protocol):
    """Frozen plain data that turns columns into columns.

    An output with the name of an input that is not removed takes its place; the others take the
    place of the first removed column, or stand at the end where none is removed.
    """

    op: ClassVar[str]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        ...

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        ...

    def columns(
        self, frame: pl.DataFrame, training: Training = None, /
    ) -> Sequence[pl.Series | pl.Expr]:
        """The outputs, for the rows of a frame.

        Raises:
            DataError: A value cannot be transformed.
        """
        ...

    def row_function(self) -> RowFunction:
        """A function that does the same to one row, in place; null is None."""
        ...
