"""What a data set plugin offers, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, cast, runtime_checkable

import polars as pl

from sunloom.core.plugins import load_plugin

GROUP = "sunloom.datasets"

POSITION = "position"
"""Column of raw and parsed tables: where the row stands in its source, counted from 1."""
REASON = "reason"
"""Column of parsed tables: why the row cannot be used; null where it can."""


@runtime_checkable
class DataSet(Protocol):
    """A source of rows, its rules, and the tables made of it.

    The object travels to Ray workers, so it must pickle by reference (a module's constant of a
    plain class).
    """

    name: str
    """The folder's name under ``outputs/data``."""
    table: str
    """Name of the main table."""
    identity: Sequence[str]
    """Columns that make two rows exact duplicates of each other."""

    def raw(self) -> pl.DataFrame:
        """Every row as text, with ``position``."""
        ...

    def parse(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Typed rows in the same order and number, with ``position`` and ``reason``."""
        ...

    def notes(self, rows: pl.DataFrame) -> dict[str, int]:
        """Counts of unusual rows that are kept."""
        ...

    def derive(self, main: pl.LazyFrame) -> Mapping[str, pl.LazyFrame]:
        """Further tables made from the main one."""
        ...


@runtime_checkable
class LabelledDataSet(DataSet, Protocol):
    """A data set that also says whom to ask about at a moment, and what happened after."""

    label: str
    """The label's column."""

    def entities(self, tables: Mapping[str, pl.LazyFrame], moment: datetime) -> pl.DataFrame:
        """The entities known at the moment: key and ``event_time``, sorted by key."""
        ...

    def outcomes(self, tables: Mapping[str, pl.LazyFrame], rows: pl.DataFrame) -> pl.Series:
        """The label of each row, in order."""
        ...


def open_dataset(name: str) -> DataSet:
    """The data set plugin of that name.

    Raises:
        NotFoundError: No plugin bears the name.
        PluginError: The plugin is not a data set.
    """
    return cast(DataSet, load_plugin(GROUP, name, DataSet))
