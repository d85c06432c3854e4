"""Operation: what a fitted step does to a frame and to one row, and the shapes of operations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import polars as pl

from sunloom.preprocessing.tables import Batch

RowFunction: TypeAlias = Callable[[dict[str, Any]], None]
Training: TypeAlias = Batch | None
"""The batch of the table that is being fitted; None for rows of any other table."""


class Operation(Protocol):
    """Frozen plain data that turns columns into columns.

    An output with the name of an input that is not removed takes its place; the others take the
    place of the first removed column, or stand at the end where none is removed.
    """

    op: ClassVar[str]
    """Tag in artifacts."""
    whole: ClassVar[bool] = False
    """Whether it reads other rows than its own: batches are not enough."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes; by default those that it reads."""
        return self.inputs

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

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


@dataclass(frozen=True)
class OneColumn(Operation):
    """One column that keeps its name and place.

    Attributes:
        column: The column.
    """

    column: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)


@dataclass(frozen=True)
class Expansion(OneColumn):
    """One column that becomes several.

    Attributes:
        column: The column; gone afterwards.
        names: Columns of the result.
    """

    names: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


@dataclass(frozen=True)
class Description(OneColumn):
    """Figures about a column, appended.

    Attributes:
        column: The column.
        figures: Which figures.
    """

    figures: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return tuple(f"{self.column}_{figure}" for figure in self.figures)


@dataclass(frozen=True)
class ByValue(OneColumn):
    """One column whose values are described one at a time: alike in a frame and in a row."""

    @property
    @abstractmethod
    def dtypes(self) -> Sequence[Any]:
        """Type of each output."""

    @abstractmethod
    def describe(self, value: Any) -> Sequence[Any]:
        """The outputs for one value of the column; None is a missing one."""

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per output."""
        rows = [self.describe(value) for value in frame[self.column].to_list()]
        values = zip(*rows, strict=True) if rows else [()] * len(self.outputs)
        return [
            pl.Series(name, list(column), dtype=dtype)
            for name, dtype, column in zip(self.outputs, self.dtypes, values, strict=True)
        ]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names, is_removed = self.column, self.outputs, bool(self.removes)

        def describe(row: dict[str, Any]) -> None:
            value = row.pop(column) if is_removed else row[column]
            row.update(zip(names, self.describe(value), strict=True))

        return describe


@dataclass(frozen=True)
class Pairing(Operation):
    """Two columns that make one more, at the end.

    Attributes:
        left: The first.
        right: The second.
    """

    sign: ClassVar[str]
    left: str
    right: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.left, self.right)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (f"{self.left}{self.sign}{self.right}",)


@dataclass(frozen=True)
class SeveralColumns(Operation):
    """Several columns that keep their names and places.

    Attributes:
        sources: The columns.
    """

    sources: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources
