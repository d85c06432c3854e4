"""Estimator of one type of step: what it collects in a pass, and what it builds from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import polars as pl

from sunloom.preprocessing.accumulators.counts import LevelCounts
from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.accumulators.values import ColumnValues, MeanVariance, TableSample
from sunloom.preprocessing.columns import Kind, level_dtype
from sunloom.preprocessing.operations.protocol import Operation

Accumulators: TypeAlias = dict[str, Accumulator]
"""Accumulators of a step, by column or by name."""
# The pass that an accumulator belongs to limits its memory.
_UNLIMITED = 1 << 60


class StepLike(Protocol):
    """A step's configuration."""

    @property
    def type(self) -> str:
        """Type of the step."""
        ...

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it names."""
        ...


@dataclass
class FittedStep:
    """A step, fitted.

    Attributes:
        operations: What it does to rows.
        notes: What a user should know of it.
        rank_error: Most by which a quantile it uses can be off, as a share of the values.
    """

    operations: Sequence[Operation] = ()
    notes: list[str] = field(default_factory=list)
    rank_error: float = 0.0


Builder: TypeAlias = Callable[[Any, Sequence[str], Accumulators], FittedStep]
"""Step, columns and their accumulators to operations."""


def for_each_column(build: Callable[[Any, str, Any], Operation]) -> Builder:
    """A builder of one operation per column.

    Args:
        build: Step, column, and its statistic (None where nothing is collected) to an operation.
    """

    def build_step(step: Any, columns: Sequence[str], accumulators: Accumulators) -> FittedStep:
        statistics = {name: one.finish() for name, one in accumulators.items()}
        return FittedStep([build(step, name, statistics.get(name)) for name in columns])

    return build_step


def target_of(step: StepLike) -> tuple[str, ...]:
    """The target that a step learns from, if it has one."""
    target = getattr(step, "target", None)
    return (target,) if target else ()


def collect_nothing(_step: Any, _columns: Sequence[str], _schema: pl.Schema) -> Accumulators:
    """For a step that learns nothing from the rows."""
    return {}


def collect_moments(_step: Any, columns: Sequence[str], _schema: pl.Schema) -> Accumulators:
    """Moments of each column."""
    return {name: MeanVariance(name) for name in columns}


def collect_values(_step: Any, columns: Sequence[str], _schema: pl.Schema) -> Accumulators:
    """The values of each column."""
    return {name: ColumnValues(name, _UNLIMITED) for name in columns}


def collect_levels(_step: Any, columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    """The levels of each column."""
    return {name: LevelCounts(name, level_dtype(schema[name])) for name in columns}


def collect_rows(step: Any, columns: Sequence[str], _schema: pl.Schema) -> Accumulators:
    """A sample of the rows, with the target; the columns' values must be finite."""
    names = (*columns, *target_of(step))
    return {"rows": TableSample(names, step.max_rows, tuple(columns))}


@dataclass(frozen=True)
class Estimator:
    """How one type of step is fitted.

    Attributes:
        kinds: Kinds of columns that it takes.
        build: Step, columns and their accumulators to operations.
        collect: Step, columns and schema to accumulators.
        kinds_by_step: Step to the kinds that it takes when it names no columns; the first of
            ``kinds`` by default.
        in_place: Whether the step leaves names and kinds as they are.
    """

    kinds: tuple[Kind, ...]
    build: Builder
    collect: Callable[[Any, Sequence[str], pl.Schema], Accumulators] = collect_nothing
    kinds_by_step: Callable[[Any], tuple[Kind, ...]] | None = None
    in_place: Callable[[Any], bool] = lambda _step: False

    def default_kinds(self, step: StepLike) -> tuple[Kind, ...]:
        """Kinds of the columns that a step without ``columns`` is for."""
        return self.kinds[:1] if self.kinds_by_step is None else self.kinds_by_step(step)
