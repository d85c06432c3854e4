"""The one shape of every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import polars as pl

from sunloom.preprocessing.accumulators.protocol import Accumulator
from sunloom.preprocessing.column_kinds import Kind
from sunloom.preprocessing.operations.protocol import Operation

Schema: TypeAlias = Mapping[str, pl.DataType]
Learnt: TypeAlias = dict[str, Accumulator]


class StepLike(Protocol):
    """A step's configuration."""

    @property
    def type(self) -> str:
        """Name of the transformer."""
        ...

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it names."""
        ...


@dataclass
class FittedStep:
    """What a step has become.

    Attributes:
        operations: What it does to rows.
        notes: What a user should know of it.
        rank_error: Most by which a quantile it uses can be off, as a share of the values.
    """

    operations: list[Operation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rank_error: float = 0.0


@dataclass(frozen=True)
class Estimator:
    """How one type of step is fitted.

    Attributes:
        kinds: Kinds of columns that it takes.
        observe: Step, columns and schema to what must be learnt.
        settle: Step, columns and what was learnt to operations.
        default_kinds: Step to the kinds that it takes when it names no columns.
        in_place: Whether the step leaves names and kinds as they are.
    """

    kinds: tuple[Kind, ...]
    observe: Callable[[Any, Sequence[str], Schema], Learnt]
    settle: Callable[[Any, Sequence[str], Learnt], FittedStep]
    default_kinds: Callable[[Any], tuple[Kind, ...]]
    in_place: Callable[[Any], bool] = lambda _step: False


def always(*kinds: Kind) -> Callable[[Any], tuple[Kind, ...]]:
    """The same kinds whatever the step says."""
    return lambda _step: kinds
