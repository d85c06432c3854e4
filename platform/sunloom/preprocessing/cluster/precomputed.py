"""Stages whose columns about other rows are computed beforehand, for a worker with one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training
from sunloom.preprocessing.stages import Stage, need_whole_table


@dataclass(frozen=True)
class Precomputed:
    """Operation in place of one that needs the whole table: takes its columns from a frame.

    Attributes:
        key: Leading part of the names of its columns in that frame.
        operation: The operation it stands for.
        results: The columns of the rows at hand.
    """

    op: ClassVar[str] = "precomputed"
    key: str
    operation: Operation
    results: pl.DataFrame | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Nothing: its columns are known."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns that the operation makes."""
        return self.operation.outputs

    @property
    def removes(self) -> tuple[str, ...]:
        """Nothing: an operation that looks back keeps the columns that it reads."""
        return ()

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The columns of the rows at hand."""
        if self.results is None:
            raise DataError(f"{self.operation.op} is not known for these rows.")
        return [self.results[f"{self.key}{name}"].alias(name) for name in self.outputs]

    def row_function(self) -> RowFunction:
        """The operation's own."""
        return self.operation.row_function()


def precompute(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, where operations that need the whole table are ``Precomputed``."""
    return [
        tuple(Precomputed(f"{index}:", op) if need_whole_table([(op,)]) else op for op in stage)
        for index, stage in enumerate(stages)
    ]


def attach_results(stages: Sequence[Stage], results: pl.DataFrame | None) -> list[Stage]:
    """The stages, where ``Precomputed`` operations know the columns of some rows."""
    return [
        tuple(
            Precomputed(op.key, op.operation, results) if isinstance(op, Precomputed) else op
            for op in stage
        )
        for stage in stages
    ]


def restore_operations(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with the operations that ``Precomputed`` stands for."""
    return [
        tuple(op.operation if isinstance(op, Precomputed) else op for op in stage)
        for stage in stages
    ]
