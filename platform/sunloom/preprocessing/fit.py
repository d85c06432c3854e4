"""Fit a recipe in as few passes over the table as its steps allow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

import sunloom
from sunloom.config.preprocessing.steps import Step
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.accumulators.values import Values
from sunloom.preprocessing.estimators.estimator_table import rule_of
from sunloom.preprocessing.estimators.protocol import FittedStep, Learnt
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.recipe import Recipe, columns_of, parse_recipe, plain_recipe, steps_of
from sunloom.preprocessing.stages import (
    Stage,
    apply_stages,
    need_whole_table,
    needed_stages,
    schema_after,
)
from sunloom.preprocessing.tables.batches import Batch, Source, open_source, whole_table

MEMORY_BYTES = 1_000_000_000


@dataclass
class FitPass:
    """One reading of the table.

    Attributes:
        before: Fitted operations that what is learnt looks through.
        columns: Columns of the table that are read.
        learnt: Place of a step to what it learns.
        rows: Rows read.
    """

    before: list[Stage]
    columns: tuple[str, ...]
    learnt: dict[int, Learnt]
    rows: int = 0

    def observe(self, chunk: Batch, before: Sequence[Stage] | None = None) -> None:
        """Take some rows of the table in.

        Args:
            chunk: The rows.
            before: What they are looked at through instead of ``before``.
        """
        rows = apply_stages(chunk.rows, self.before if before is None else before, chunk)
        seen = chunk.with_rows(rows)
        for statistic in self._statistics():
            statistic.update(seen)
        self.rows += chunk.rows.height

    def merge(self, other: FitPass) -> None:
        """Take in the same pass over other rows."""
        self.rows += other.rows
        for mine, theirs in zip(self._statistics(), other._statistics(), strict=True):
            mine.merge(theirs)

    def limit(self, memory_bytes: int) -> None:
        """Share memory among the statistics that keep values."""
        keeping = [one for one in self._statistics() if isinstance(one, Values)]
        for one in keeping:
            one.most_bytes = memory_bytes // len(keeping)

    def bytes_kept(self, rows: int) -> int:
        """Bytes of each row that are kept; 0 where so many rows are more than the memory holds."""
        keeping = [one for one in self._statistics() if isinstance(one, Values)]
        return 8 * len(keeping) if all(8 * rows <= one.most_bytes for one in keeping) else 0

    def lend(self, share: float) -> None:
        """Keep to that share of the memory: others read the rest of the rows."""
        for one in self._statistics():
            if isinstance(one, Values):
                one.share = share

    def _statistics(self) -> list[Accumulator]:
        return [one for learnt in self.learnt.values() for one in learnt.values()]


Reader: TypeAlias = Callable[[Source, FitPass], FitPass]
"""Reads the whole table once and gives the pass with what it learnt."""


def read_here(source: Source, reading: FitPass) -> FitPass:
    """Read in this process, chunk by chunk; as a whole where a step looks at other rows."""
    if need_whole_table(reading.before):
        reading.observe(whole_table(source, reading.columns))
        return reading
    for chunk in source.chunks(reading.columns):
        reading.observe(chunk)
    return reading


@dataclass
class _Fitting:
    """Steps on their way to operations.

    Attributes:
        steps: In the recipe's order.
        schema: Columns of the table.
        keep: Columns that a step without ``columns`` leaves alone.
        done: Place of a step to what it has become.
        gone: Columns that a step left out.
    """

    steps: Sequence[Step]
    schema: pl.Schema
    keep: tuple[str, ...]
    done: dict[int, FittedStep] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    rows: int = 0
    passes: int = 0

    def stages(self) -> list[Stage]:
        """The operations known so far, in the recipe's order."""
        return [tuple(self.done[place].operations) for place in sorted(self.done)]

    def next_pass(self) -> tuple[FitPass, dict[int, tuple[str, ...]]]:
        """What can be learnt now, and the columns of each step in it."""
        now = schema_after(self.schema, self.stages())
        learnt: dict[int, Learnt] = {}
        columns: dict[int, tuple[str, ...]] = {}
        waiting: set[str] = set()
        is_known = True
        for place, step in enumerate(self.steps):
            if place in self.done:
                continue
            if not is_known and not set(step.columns or ("",)) <= set(now):
                # It means columns that an earlier step is still to make.
                break
            is_known = is_known and rule_of(step).in_place(step)
            if {*(step.columns or ()), *_target(step)} & waiting:
                waiting |= set(step.columns or now)
                continue
            chosen = columns_of(step, now, tuple(self.gone), self.keep)
            if not set(chosen) & waiting:
                columns[place] = chosen
                learnt[place] = rule_of(step).observe(step, chosen, now)
            waiting |= set(chosen)
        wanted = {name for one in learnt.values() for s in one.values() for name in s.columns}
        before, raw = needed_stages(self.stages(), wanted)
        return FitPass(before, tuple(n for n in self.schema if n in raw), learnt), columns

    def settle(self, reading: FitPass, columns: dict[int, tuple[str, ...]]) -> None:
        """Turn what a pass has learnt into operations."""
        for place, chosen in columns.items():
            step = self.steps[place]
            found = rule_of(step).settle(step, chosen, reading.learnt[place])
            self.done[place] = found
            self.gone |= {name for op in found.operations if not op.outputs for name in op.removes}
        self.rows = max(self.rows, reading.rows)
        self.passes += bool(reading.columns)


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
        reader: Who reads: this process by default.

    Raises:
        UsageError: There is no such file.
        DataError: A column is missing, of the wrong type, or holds what cannot be learnt from.
    """
    parsed = parse_recipe(recipe)
    source = open_source(table)
    schema = pl.Schema(dict(source.schema))
    steps = steps_of(parsed, schema, keep)
    # A step without columns leaves every step's target alone.
    kept = (*keep, *(name for step in steps for name in _target(step)))
    fitting = _Fitting(steps, schema, kept)
    while len(fitting.done) < len(fitting.steps):
        reading, columns = fitting.next_pass()
        reading.limit(memory_bytes)
        if reading.columns:
            reading = reader(source, reading)
            _require_rows(reading.rows)
        fitting.settle(reading, columns)
    notes = [note for place in sorted(fitting.done) for note in fitting.done[place].notes]
    error = max((one.rank_error for one in fitting.done.values()), default=0.0)
    return _build_pipeline(
        parsed,
        schema,
        fitting.stages(),
        rows=fitting.rows,
        passes=fitting.passes,
        notes=notes,
        rank_error=error,
    )


def _build_pipeline(
    recipe: Recipe, schema: pl.Schema, stages: Sequence[Stage], **about: Any
) -> FittedPipeline:
    """A recipe whose steps are all fitted."""
    after = schema_after(schema, stages)
    made = {name for stage in stages for op in stage for name in (*op.outputs, *op.removes)}
    _, raw = needed_stages(stages, made)
    versions = {"sunloom": sunloom.__version__, "polars": pl.__version__}
    versions["python"] = ".".join(map(str, sys.version_info[:3]))
    # What is only removed need not be there, so it is not among the columns that are read.
    reads = {name for stage in stages for op in stage for name in op.inputs}
    return FittedPipeline(
        recipe=plain_recipe(recipe),
        schema={n: d for n, d in schema.items() if n in raw and n in reads},
        stages=tuple(stages),
        outputs={name: str(dtype) for name, dtype in after.items()},
        about={**about, "versions": versions},
    )


def fit_transform(
    recipe: Recipe | Any, table: pl.DataFrame, **options: Any
) -> tuple[FittedPipeline, pl.DataFrame]:
    """Fit, and prepare the rows it was fitted on: target encodings are out-of-fold."""
    fitted = fit(recipe, table, **options)
    if need_whole_table(fitted.stages):
        return fitted, fitted.training_frame(Batch(table))
    parts = [fitted.training_frame(chunk) for chunk in open_source(table).chunks()]
    return fitted, pl.concat(parts)


def _require_rows(rows: int) -> None:
    if rows == 0:
        raise DataError("The table has no rows to learn from.", "Check the input.")


def _target(step: Step) -> tuple[str, ...]:
    target = getattr(step, "target", None)
    return (target,) if target else ()
