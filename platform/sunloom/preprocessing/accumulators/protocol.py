"""The one shape of everything that is learnt from a table."""

from __future__ import annotations

from typing import Any, Protocol, Self

from sunloom.preprocessing.tables.batches import Batch


class Accumulator(Protocol):
    """Something learnt from chunks of rows in any order, on any machine.

    ``merge`` of the statistics of two parts is the statistic of the whole: to the bit for counts
    and values, to rounding for sums.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        ...

    def update(self, chunk: Batch) -> None:
        """Take some rows in.

        Raises:
            DataError: A value cannot be learnt from.
        """
        ...

    def merge(self, other: Self) -> None:
        """Take in what another one has learnt from other rows."""
        ...

    def finish(self) -> Any:
        """What was learnt."""
        ...
