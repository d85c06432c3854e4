"""Stages whose columns about other rows were made before: what a worker applies to its chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training
from sunloom.preprocessing.stages import Stage, need_whole_table


@dataclass(frozen=True)
class Recalled:
    """Stands for an operation whose columns were made before: takes them from a table.

    Attributes:
        key: Begins the names of its columns in that table.
        operation: What it stands for.
        held: The columns of the rows at hand.
    """

    op: ClassVar[str] = "recalled"
    key: str
    operation: Operation
    held: pl.DataFrame | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Nothing: all is known."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns that the operation makes."""
        return self.operation.outputs

    @property
    def removes(self) -> tuple[str, ...]:
        """Nothing: what looks back keeps what it looks at."""
        return ()

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns of the rows at hand."""
        if self.held is None:
            raise DataError(f"{self.operation.op} is not known for these rows.")
        return [self.held[f"{self.key}{name}"].alias(name) for name in self.outputs]

    def scalar(self) -> RowFunction:
        """The operation's own."""
        return self.operation.scalar()


def recalled(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, where what looks back takes columns that were made before."""
    return [
        tuple(Recalled(f"{place}:", op) if need_whole_table([(op,)]) else op for op in stage)
        for place, stage in enumerate(stages)
    ]


def remembered(stages: Sequence[Stage], held: pl.DataFrame | None) -> list[Stage]:
    """Recalled stages that know the columns of some rows."""
    return [
        tuple(Recalled(op.key, op.operation, held) if isinstance(op, Recalled) else op for op in s)
        for s in stages
    ]
