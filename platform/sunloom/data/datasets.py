"""Data sets: plugins that give raw rows, parse them, and derive tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, cast, runtime_checkable

import polars as pl

from sunloom.core.plugins import load_plugin

GROUP = "sunloom.datasets"

POSITION = "position"
"""Column of raw and parsed tables: the row's position in its source, from 1."""
REASON = "reason"
"""Column of parsed tables: why the row cannot be used; null where it can."""


@runtime_checkable
class DataSet(Protocol):
    """A source of rows, its parser, and the tables derived from it.

    The object travels to Ray workers, so it must pickle by reference (a module's constant of a
    plain class).
    """

    # A protocol and no base class: a plugin imports nothing of the platform but two constants.
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
    """A data set that also gives the entities known at an as-of time, and their labels."""

    label: str
    """The label's column."""

    def entities(self, tables: Mapping[str, pl.LazyFrame], as_of: datetime) -> pl.DataFrame:
        """The entities known at the as-of time: key and ``event_time``, sorted by key."""
        ...

    def outcomes(self, tables: Mapping[str, pl.LazyFrame], rows: pl.DataFrame) -> pl.Series:
        """The label of each row, in order."""
        ...


def open_dataset(name: str) -> DataSet:
    """The data set plugin of that name.

    Raises:
        NotFoundError: No plugin has the name.
        PluginError: The plugin is not a data set.
    """
    return cast(DataSet, load_plugin(GROUP, name, DataSet))
