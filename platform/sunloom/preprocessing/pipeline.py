"""Fitted pipeline: stages of operations that transform frames, training rows and single rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

import polars as pl

from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.columns import (
    Kind,
    decode_columns,
    exact_decimal,
    infinite_error,
    kind_of,
    not_utf8_error,
    require_kind,
)
from sunloom.preprocessing.operations.categories import CategoryLookup, OneHot
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training
from sunloom.preprocessing.operations.vectors import VectorLookup
from sunloom.preprocessing.tables import Batch, Source, whole_table

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
        DataError: A new column would have a name that the table or another new one has already.
    """
    replaced: dict[str, list[str]] = {}
    makers: dict[str, Operation] = {}
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
        for name in new:
            # As york_new of city and new of city_york, or the text None beside a missing value.
            if name in makers:
                sources = sorted({*makers[name].inputs, *operation.inputs})
                raise DataError(
                    f"{operation.op} would make two columns {name!r}, of {', '.join(sources)}.",
                    "Rename a column, impute missing values, or replace one of the values.",
                    name,
                )
            makers[name] = operation
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


def schema_after(schema: pl.Schema, stages: Sequence[Stage]) -> pl.Schema:
    """Names and types after the stages."""
    return apply_stages(pl.DataFrame(schema=schema), stages).schema


def need_whole_table(stages: Iterable[Stage]) -> bool:
    """Whether an operation reads other rows than its own: batches are not enough."""
    return any(operation.whole for stage in stages for operation in stage)


def staged_batches(
    stages: Iterable[Stage], source: Source, columns: Sequence[str] | None = None
) -> Iterator[Batch]:
    """A table's rows as stages need them: in batches, or as a whole for those of other rows."""
    whole = need_whole_table(stages)
    yield from [whole_table(source, columns)] if whole else source.batches(columns)


def uses_models(stages: Iterable[Stage]) -> bool:
    """Whether an operation loads a model, which a process had better keep."""
    return any(getattr(operation, "model", None) for stage in stages for operation in stage)


_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "number": (float, int, bool, Decimal),
    "category": (str,),
    "bool": (bool,),
    "time": (date,),
    "bytes": (bytes,),
    "other": (object,),
}
_NOUNS = {"number": "a number", "category": "text", "bool": "true or false", "time": "a date"}


def build_row_check(
    kinds: Mapping[str, Kind], levels: Collection[str] = ()
) -> Callable[[dict[str, Any]], None]:
    """A function that checks the named columns of a row, and makes NaN None in it.

    Args:
        kinds: Column to kind.
        levels: Columns whose values are looked up before anything is computed with them: a decimal
            there keeps the digits that no float has.
    """
    numbers = tuple(name for name, kind in kinds.items() if kind == "number")
    others = tuple((name, _TYPES[kind]) for name, kind in kinds.items() if kind != "number")
    inf = math.inf

    def check(row: dict[str, Any]) -> None:
        # Comparisons of classes: most values are plain floats and ints, which pass at once.
        try:
            for name in numbers:
                value = row[name]
                if value.__class__ is float:
                    if value != value:
                        row[name] = None
                    elif value == inf or value == -inf:
                        raise infinite_error(name)
                elif value is not None and value.__class__ is not int:
                    row[name] = _to_number(name, value, keep_digits=name in levels)
            for name, types in others:
                if (value := row[name]) is not None and not isinstance(value, types):
                    if not isinstance(value, bytes) or kinds[name] != "category":
                        raise _type_error(name, value, kinds[name])
                    row[name] = _to_text(name, value)
        except KeyError as missing:
            raise DataError(
                f"The row lacks the column {missing.args[0]}.",
                f"Found: {', '.join(map(str, row)) or 'no columns'}.",
                str(missing.args[0]),
            ) from None

    return check


def _to_text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise not_utf8_error(name) from None


def _to_number(name: str, value: Any, *, keep_digits: bool) -> float | Decimal | None:
    if not isinstance(value, _TYPES["number"]) and not hasattr(value, "__float__"):
        raise _type_error(name, value, "number")
    number = float(value)
    if math.isinf(number):
        raise infinite_error(name)
    if keep_digits and isinstance(value, Decimal) and exact_decimal(number) != value:
        return None if value.is_nan() else value
    return None if math.isnan(number) else number


def _type_error(name: str, value: Any, kind: Kind) -> DataError:
    return DataError(
        f"Column {name!r} is {_NOUNS.get(kind, kind)}, but the row holds {value!r}.",
        "Give a value of the column's type.",
        name,
    )


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

    def apply_frame(self, frame: pl.DataFrame, training: Training = None) -> pl.DataFrame:
        """Transform rows; their number and order stay, and so do columns that no step is for.

        Args:
            frame: Rows.
            training: The rows as a batch of the table that the pipeline was fitted on, so that
                target encodings are out-of-fold. Only right after fitting: an artifact does not
                hold the folds.

        Raises:
            DataError: A column is missing or of another type, or holds an infinite value or a
                level that is refused.
        """
        texts = [name for name, kind in self.kinds.items() if kind == "category"]
        frame = decode_columns(frame, [name for name in texts if name in frame.columns])
        self._check(frame)
        return apply_stages(frame, self.stages, training)

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
        functions = (operation.row_function() for stage in self.stages for operation in stage)
        first: dict[str, Operation] = {}
        for operation in (operation for stage in self.stages for operation in stage):
            first |= {name: operation for name in operation.inputs if name not in first}
        lookups = (CategoryLookup, OneHot, VectorLookup)
        levels = {name for name, operation in first.items() if isinstance(operation, lookups)}
        return (build_row_check(self.kinds, levels), *functions)

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
