"""Protocol of an accumulator: what fitting learns from a table, in parts that merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from sunloom.preprocessing.tables import Batch


class Accumulator(Protocol):
    """A statistic of batches in any order, on any machine.

    ``merge`` of the accumulators of two parts is the accumulator of the whole: to the bit for
    counts and values, to rounding for sums.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        ...

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch.

        Raises:
            DataError: A value cannot be learnt from.
        """
        ...

    def merge(self, other: Self) -> None:
        """Add the rows that another one has seen."""
        ...

    def finish(self) -> Any:
        """The statistic."""
        ...


@dataclass
class ColumnAccumulator:
    """An accumulator of one column.

    Attributes:
        column: The column.
    """

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.column,)
