"""Shapes that operations share: which columns they read, make and remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class OneColumn:
    """One column that keeps its name and place.

    Attributes:
        column: The column.
    """

    column: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return (self.column,)

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()


@dataclass(frozen=True)
class Expansion(OneColumn):
    """One column that becomes several.

    Attributes:
        column: The column; gone afterwards.
        names: Columns of the result.
    """

    names: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)


@dataclass(frozen=True)
class Description(OneColumn):
    """Figures about a column, appended.

    Attributes:
        column: The column.
        figures: Which figures.
    """

    figures: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return tuple(f"{self.column}_{figure}" for figure in self.figures)


@dataclass(frozen=True)
class Pairing:
    """Two columns that make one more, at the end.

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
        """Columns that are gone afterwards."""
        return ()


@dataclass(frozen=True)
class SeveralColumns:
    """Several columns that keep their names and places.

    Attributes:
        sources: The columns.
    """

    sources: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.sources

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()
