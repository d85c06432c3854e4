"""What several operations have in common: which columns they read, make and remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Expansion:
    """One column becomes several.

    Attributes:
        column: The column; gone afterwards.
        names: Columns of the result.
    """

    column: str
    names: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


@dataclass(frozen=True)
class Description:
    """Figures about a column, appended.

    Attributes:
        column: The column.
        figures: Which figures.
    """

    column: str
    figures: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return tuple(f"{self.column}_{figure}" for figure in self.figures)

    @property
    def removes(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Pairing:
    """Two columns make one more, at the end.

    Attributes:
        left: The first.
        right: The second.
    """

    sign: ClassVar[str]
    left: str
    right: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.left, self.right)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (f"{self.left}{self.sign}{self.right}",)

    @property
    def removes(self) -> tuple[str, ...]:
        """Nothing."""
        return ()
