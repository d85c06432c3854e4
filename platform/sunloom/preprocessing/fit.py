"""Fit of a recipe in as few passes over the table as its steps allow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

import sunloom
from sunloom.config.preprocessing.steps import Step
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.accumulators.values import ColumnValues
from sunloom.preprocessing.estimators.estimator_table import estimator_of
from sunloom.preprocessing.estimators.protocol import Accumulators, FittedStep, target_of
from sunloom.preprocessing.pipeline import (
    FitReport,
    FittedPipeline,
    Stage,
    apply_stages,
    needed_stages,
    schema_after,
    staged_batches,
)
from sunloom.preprocessing.recipe import (
    Recipe,
    columns_of,
    known_types,
    parse_recipe,
    recipe_to_json,
    steps_of,
    text_columns,
)
from sunloom.preprocessing.tables import Batch, Source, open_source

MEMORY_BYTES = 1_000_000_000

_NO_ROWS = "The table has no rows to learn from."


@dataclass
class FitPass:
    """One reading of the table.

    Attributes:
        stages: Fitted operations that the rows go through first.
        columns: Columns of the table that are read.
        step_columns: Index of a step to the columns that it is for.
        accumulators: Index of a step to its accumulators.
        rows: Rows read.
    """

    stages: list[Stage]
    columns: tuple[str, ...]
    step_columns: dict[int, tuple[str, ...]]
    accumulators: dict[int, Accumulators]
    rows: int = 0

    def collect(self, batch: Batch, stages: Sequence[Stage] | None = None) -> None:
        """Add some rows of the table.

        Args:
            batch: The rows.
            stages: Stages that they go through instead of the pass's own.
        """
        rows = apply_stages(batch.rows, self.stages if stages is None else stages, batch)
        # One for all accumulators: it caches the numbers and folds that they share.
        staged = Batch(rows, batch.first)
        for accumulator in self._all_accumulators():
            accumulator.update(staged)
        self.rows += batch.rows.height

    def merge(self, other: FitPass) -> None:
        """Add the same pass over other rows."""
        self.rows += other.rows
        pairs = zip(self._all_accumulators(), other._all_accumulators(), strict=True)
        for accumulator, addition in pairs:
            accumulator.merge(addition)

    def limit_memory(self, memory_bytes: int) -> None:
        """Divide memory among the accumulators that keep values."""
        keepers = list(self._value_keepers())
        for keeper in keepers:
            keeper.most_bytes = memory_bytes // len(keepers)

    def bytes_kept(self, rows: int) -> int:
        """Bytes of each row that are kept; 0 where so many rows are more than the memory holds."""
        keepers = list(self._value_keepers())
        fits = all(8 * rows <= keeper.most_bytes for keeper in keepers)
        return 8 * len(keepers) if fits else 0

    def limit_share(self, share: float) -> None:
        """Keep to that share of the memory: other workers read the rest of the rows."""
        for keeper in self._value_keepers():
            keeper.share = share

    def _all_accumulators(self) -> list[Accumulator]:
        return [one for step in self.accumulators.values() for one in step.values()]

    def _value_keepers(self) -> Iterator[ColumnValues]:
        return (one for one in self._all_accumulators() if isinstance(one, ColumnValues))


Reader: TypeAlias = Callable[[Source, FitPass], FitPass]
"""Reads the whole table once and returns the pass with what it has collected."""


def read_here(source: Source, fit_pass: FitPass) -> FitPass:
    """Read in this process, batch by batch; as a whole where a step reads other rows."""
    for batch in staged_batches(fit_pass.stages, source, fit_pass.columns):
        fit_pass.collect(batch)
    return fit_pass


@dataclass
class _Fit:
    """Steps while they are fitted.

    Attributes:
        steps: In the recipe's order.
        schema: Columns of the table.
        keep: Columns that a step without ``columns`` leaves alone.
        fitted: Index of a step to its fitted form.
        removed: Columns that a step left out.
        rows: Rows of the table.
        passes: Passes over it.
    """

    steps: Sequence[Step]
    schema: pl.Schema
    keep: tuple[str, ...]
    fitted: dict[int, FittedStep] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    rows: int = 0
    passes: int = 0

    def fitted_steps(self) -> list[FittedStep]:
        """The steps fitted so far, in the recipe's order."""
        return [self.fitted[index] for index in sorted(self.fitted)]

    def stages(self) -> list[Stage]:
        """The operations known so far, in the recipe's order."""
        return [tuple(step.operations) for step in self.fitted_steps()]

    def next_pass(self) -> FitPass:
        """All steps whose columns no unfitted step before them changes: one pass is enough."""
        schema = schema_after(self.schema, self.stages())
        accumulators: dict[int, Accumulators] = {}
        step_columns: dict[int, tuple[str, ...]] = {}
        # Columns that an unfitted step will change: later steps on them have to wait.
        pending: set[str] = set()
        names_are_known = True
        for index, step in enumerate(self.steps):
            if index in self.fitted:
                continue
            if not names_are_known and not set(step.columns or ("",)) <= set(schema):
                # It is for columns that an earlier step is still to make.
                break
            estimator = estimator_of(step)
            names_are_known = names_are_known and estimator.in_place(step)
            if {*(step.columns or ()), *target_of(step)} & pending:
                pending |= set(step.columns or schema)
                continue
            columns = columns_of(step, schema, tuple(self.removed), self.keep)
            if not set(columns) & pending:
                step_columns[index] = columns
                accumulators[index] = estimator.collect(step, columns, schema)
            pending |= set(columns)
        needed = {
            name for step in accumulators.values() for one in step.values() for name in one.columns
        }
        stages, raw = needed_stages(self.stages(), needed)
        return FitPass(
            stages=stages,
            columns=tuple(name for name in self.schema if name in raw),
            step_columns=step_columns,
            accumulators=accumulators,
        )

    def build_steps(self, fit_pass: FitPass) -> None:
        """Turn what a pass has collected into operations."""
        for index, columns in fit_pass.step_columns.items():
            step = self.steps[index]
            fitted = estimator_of(step).build(step, columns, fit_pass.accumulators[index])
            self.fitted[index] = fitted
            self.removed |= {
                name for op in fitted.operations if not op.outputs for name in op.removes
            }
        # A pass of steps that learn nothing reads no rows.
        self.rows = max(self.rows, fit_pass.rows)
        self.passes += bool(fit_pass.columns)

    def report(self) -> FitReport:
        """What fitting has read and found."""
        steps = self.fitted_steps()
        return FitReport(
            rows=self.rows,
            passes=self.passes,
            notes=[note for step in steps for note in step.notes],
            rank_error=max((step.rank_error for step in steps), default=0.0),
            versions={
                "sunloom": sunloom.__version__,
                "polars": pl.__version__,
                "python": ".".join(map(str, sys.version_info[:3])),
            },
        )


def fit(
    recipe: Recipe | Any,
    table: pl.DataFrame | pl.LazyFrame | Path | str,
    *,
    memory_bytes: int = MEMORY_BYTES,
    keep: Sequence[str] = (),
    reader: Reader = read_here,
) -> FittedPipeline:
    """Fit a recipe.

    Args:
        recipe: The short form or a list of steps, as configuration or as plain data.
        table: A frame, or a Parquet, CSV or JSON-lines file or folder.
        memory_bytes: Values kept for exact medians and quantiles; beyond it a sketch is used and
            its error stated in the artifact.
        keep: Columns that a step without ``columns`` leaves alone, such as keys.
        reader: Reads the table: in this process by default.

    Raises:
        UsageError: There is no such file.
        DataError: A column is missing, of the wrong type, or holds what cannot be learnt from.
    """
    parsed = parse_recipe(recipe)
    source = open_source(table, known_types(parsed), text_columns(parsed))
    schema = source.schema
    try:
        # The short form names no columns: they depend on the table.
        steps = steps_of(parsed, schema, keep)
    except DataError:
        # Without rows, a file of text has no types, or not even columns.
        if any(batch.rows.height for batch in source.batches(schema.names()[:1])):
            raise
        raise DataError(_NO_ROWS, "Check the input.") from None
    # A step without columns leaves every step's target alone.
    run = _Fit(steps, schema, (*keep, *(name for step in steps for name in target_of(step))))
    while len(run.fitted) < len(steps):
        fit_pass = run.next_pass()
        fit_pass.limit_memory(memory_bytes)
        if fit_pass.columns:
            fit_pass = reader(source, fit_pass)
            if fit_pass.rows == 0:
                raise DataError(_NO_ROWS, "Check the input.")
        run.build_steps(fit_pass)
    stages = run.stages()
    touched = {name for stage in stages for op in stage for name in (*op.outputs, *op.removes)}
    _, raw = needed_stages(stages, touched)
    # What is only removed need not be there, so it is not among the columns that are read.
    inputs = {name for stage in stages for op in stage for name in op.inputs}
    return FittedPipeline(
        recipe=recipe_to_json(parsed),
        schema={n: dtype for n, dtype in schema.items() if n in raw and n in inputs},
        stages=tuple(stages),
        outputs={name: str(dtype) for name, dtype in schema_after(schema, stages).items()},
        report=run.report(),
    )


def fit_transform(
    recipe: Recipe | Any, table: pl.DataFrame, **options: Any
) -> tuple[FittedPipeline, pl.DataFrame]:
    """Fit, and transform the rows it was fitted on: target encodings are out-of-fold."""
    fitted = fit(recipe, table, **options)
    batches = staged_batches(fitted.stages, open_source(table))
    return fitted, pl.concat([fitted.apply_frame(batch.rows, batch) for batch in batches])
