"""Stages of operations: a frame after them, its schema, and functions for one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training

Stage: TypeAlias = tuple[Operation, ...]
"""Operations of one step: each sees the table as it was before the step, and its own column."""


def apply_stages(
    frame: pl.DataFrame, stages: Iterable[Stage], training: Training = None
) -> pl.DataFrame:
    """The frame after all stages.

    Args:
        frame: Rows.
        stages: In order.
        training: The rows as a batch of the table that is being fitted, if they are of that.
    """
    for stage in stages:
        made = [column for operation in stage for column in operation.columns(frame, training)]
        order = column_order(frame.columns, stage)
        # At once, so that each operation of a stage sees the table before it.
        frame = frame.with_columns(made).select(order)
    return frame


def column_order(columns: Sequence[str], stage: Stage) -> list[str]:
    """Names of the columns after a stage, in order.

    Raises:
        DataError: A new column would have a name that the table has already.
    """
    replaced: dict[str, list[str]] = {}
    appended: list[str] = []
    removed = {name for operation in stage for name in operation.removes}
    remaining = set(columns) - removed
    for operation in stage:
        in_place = set(operation.inputs) - set(operation.removes)
        new = [name for name in operation.outputs if name not in in_place]
        if clash := [name for name in new if name in remaining]:
            raise DataError(
                f"{operation.op} would make a column {clash[0]!r}, which the table has already.",
                "Rename that column.",
                clash[0],
            )
        if not operation.removes:
            appended += new
        elif operation.outputs:
            # A column that becomes several ones leaves its place to them.
            anchor = next(n for n in operation.inputs if n in operation.removes)
            replaced.setdefault(anchor, []).extend(new)
    order: list[str] = []
    for name in columns:
        order += replaced.get(name, []) if name in removed else [name]
    return order + appended


def needed_stages(stages: Sequence[Stage], columns: Iterable[str]) -> tuple[list[Stage], set[str]]:
    """The operations that some columns depend on, and the columns of the table they begin with.

    Args:
        stages: In order.
        columns: Columns that are needed after them.
    """
    needed, kept = set(columns), list[Stage]()
    for stage in reversed(stages):
        used = tuple(operation for operation in stage if needed & set(operation.outputs))
        for operation in used:
            needed -= set(operation.outputs)
        # After all outputs are taken off: an input may be another operation's output.
        needed |= {name for operation in used for name in operation.inputs}
        kept.append(used)
    return [stage for stage in reversed(kept) if stage], needed


def schema_after(schema: Mapping[str, pl.DataType], stages: Sequence[Stage]) -> pl.Schema:
    """Names and types after the stages."""
    return apply_stages(pl.DataFrame(schema=dict(schema)), stages).schema


def need_whole_table(stages: Iterable[Stage]) -> bool:
    """Whether an operation reads other rows than its own: batches are not enough."""
    return any(getattr(operation, "whole", False) for stage in stages for operation in stage)


def uses_models(stages: Iterable[Stage]) -> bool:
    """Whether an operation loads a model, which a process had better keep."""
    return any(getattr(operation, "model", None) for stage in stages for operation in stage)


def row_functions(stages: Iterable[Stage]) -> list[RowFunction]:
    """One function per operation, in order."""
    return [operation.row_function() for stage in stages for operation in stage]
