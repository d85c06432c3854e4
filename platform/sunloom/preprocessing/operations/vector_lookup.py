"""Operation that looks up entities' vectors in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import level_dtype
from sunloom.preprocessing.operations.categories import codes_of
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.protocol import RowFunction, Training


@dataclass(frozen=True)
class VectorLookup(Expansion):
    """The vector of each key, in the column's place.

    Attributes:
        column: The column of keys.
        names: One per dimension.
        keys: Unique keys without null.
        table: A row per key, a number column per dimension.
        unseen: What a missing or unknown key gets: zero, or null.
    """

    op: ClassVar[str] = "vector_lookup"
    keys: pl.Series
    table: pl.DataFrame
    unseen: float | None = None

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per dimension.

        Raises:
            DataError: The column is text and the keys are numbers, or the other way round.
        """
        codes = codes_of(self._as_keys(frame[self.column]), self.keys)
        is_known = (codes >= 0) & (codes < len(self.keys))
        # Gathering at null gives null.
        places = pl.Series(np.where(is_known, codes, 0)).set(pl.Series(~is_known), None)
        columns = []
        for i, name in enumerate(self.names):
            values = self.table.to_series(i).gather(places).cast(pl.Float64).alias(name)
            columns.append(values if self.unseen is None else values.fill_null(self.unseen))
        return columns

    def _as_keys(self, values: pl.Series) -> pl.Series:
        dtype = level_dtype(values.dtype)
        if values.dtype == pl.Null or dtype == self.keys.dtype:
            return values
        if dtype == pl.Float64 and self.keys.dtype == pl.Int64:
            # 7.0 is the key 7, as a nullable integer column may be read; 7.5 is none.
            numbers = values.cast(pl.Float64)
            is_whole = numbers.is_finite() & (numbers == numbers.floor())
            return numbers.set(~is_whole.fill_null(False), None).cast(pl.Int64, strict=False)
        raise DataError(
            f"Column {self.column!r} is {values.dtype}, but the table's keys are "
            f"{self.keys.dtype}.",
            "Cast one of them, or name the right key.",
            self.column,
        )

    @cached_property
    def _places(self) -> Mapping[Any, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names, table, places = self.column, self.names, self.table, self._places
        missing = dict.fromkeys(names, self.unseen)

        def look_up(row: dict[str, Any]) -> None:
            place = places.get(row.pop(column))
            row.update(missing if place is None else zip(names, table.row(place), strict=True))

        return look_up
