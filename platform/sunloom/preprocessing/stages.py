"""Operations in stages: what a frame looks like after them, and one row."""

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
        training: The rows' place in the table that is being fitted, if they are of that.
    """
    for stage in stages:
        frame = apply_stage(frame, stage, training)
    return frame


def apply_stage(frame: pl.DataFrame, stage: Stage, training: Training = None) -> pl.DataFrame:
    """The frame after one stage."""
    made = [column for operation in stage for column in operation.columns(frame, training)]
    order = layout(frame.columns, stage)
    return frame.with_columns(made).select(order)


def layout(columns: Sequence[str], stage: Stage) -> list[str]:
    """Names of the columns after a stage, in order.

    Raises:
        DataError: A new column would bear a name that the table has already.
    """
    places: dict[str, list[str]] = {}
    end: list[str] = []
    removed = {name for operation in stage for name in operation.removes}
    for operation in stage:
        stays = set(operation.inputs) - set(operation.removes)
        new = [name for name in operation.outputs if name not in stays]
        _refuse_taken(operation, new, set(columns) - removed)
        if not operation.removes and operation.outputs:
            end += new
        elif operation.outputs:
            anchor = next(n for n in operation.inputs if n in operation.removes)
            places.setdefault(anchor, []).extend(new)
    order: list[str] = []
    for name in columns:
        order += places.get(name, []) if name in removed else [name]
    return order + end


def _refuse_taken(operation: Operation, new: Sequence[str], taken: set[str]) -> None:
    if clash := [name for name in new if name in taken]:
        raise DataError(
            f"{operation.op} would make a column {clash[0]!r}, which the table has already.",
            "Rename that column.",
            clash[0],
        )


def needed_stages(stages: Sequence[Stage], columns: Iterable[str]) -> tuple[list[Stage], set[str]]:
    """The operations that some columns depend on, and the columns of the table they begin with.

    Args:
        stages: In order.
        columns: Columns that are wanted after them.
    """
    wanted, kept = set(columns), list[Stage]()
    for stage in reversed(stages):
        used = tuple(op for op in stage if wanted & set(op.outputs))
        for operation in used:
            wanted -= set(operation.outputs)
        wanted |= {name for operation in used for name in operation.inputs}
        kept.append(used)
    return [stage for stage in reversed(kept) if stage], wanted


def schema_after(schema: Mapping[str, pl.DataType], stages: Sequence[Stage]) -> pl.Schema:
    """Names and types after the stages."""
    return apply_stages(pl.DataFrame(schema=dict(schema)), stages).schema


def need_whole_table(stages: Iterable[Stage]) -> bool:
    """Whether an operation looks at other rows than its own: chunks will not do."""
    return any(getattr(operation, "whole", False) for stage in stages for operation in stage)


def load_models(stages: Iterable[Stage]) -> bool:
    """Whether an operation loads a model, which a process had better keep."""
    return any(getattr(operation, "model", None) for stage in stages for operation in stage)


def row_functions(stages: Iterable[Stage]) -> list[RowFunction]:
    """One function an operation, in order."""
    return [operation.scalar() for stage in stages for operation in stage]
