"""Estimator of one type of step: what it collects in a pass, and what it builds of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import polars as pl

from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.columns import Kind
from sunloom.preprocessing.operations.protocol import Operation

Schema: TypeAlias = Mapping[str, pl.DataType]
Accumulators: TypeAlias = dict[str, Accumulator]
"""Accumulators of a step, by column or by name."""


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


def collect_nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Accumulators:
    """For a step that learns nothing from the rows."""
    return {}


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
    collect: Callable[[Any, Sequence[str], Schema], Accumulators] = collect_nothing
    kinds_by_step: Callable[[Any], tuple[Kind, ...]] | None = None
    in_place: Callable[[Any], bool] = lambda _step: False

    def default_kinds(self, step: StepLike) -> tuple[Kind, ...]:
        """Kinds of the columns that a step without ``columns`` is for."""
        return self.kinds[:1] if self.kinds_by_step is None else self.kinds_by_step(step)
