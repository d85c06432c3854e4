"""Vectors of entities out of a table."""

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
        names: One a dimension.
        keys: Keys without null, each once.
        table: A row a key, a number column a dimension.
        unseen: What stands for a key that is missing or not there: zero, or null.
    """

    op: ClassVar[str] = "vector_lookup"
    keys: pl.Series
    table: pl.DataFrame
    unseen: float | None = None

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column a dimension.

        Raises:
            DataError: The column is text and the keys are numbers, or the other way round.
        """
        codes = codes_of(self._like_keys(frame[self.column]), self.keys)
        known = (codes >= 0) & (codes < len(self.keys))
        places = pl.Series(np.where(known, codes, 0)).set(pl.Series(~known), None)
        made = []
        for i, name in enumerate(self.names):
            values = self.table.to_series(i).gather(places).cast(pl.Float64).alias(name)
            made.append(values if self.unseen is None else values.fill_null(self.unseen))
        return made

    def _like_keys(self, values: pl.Series) -> pl.Series:
        found = level_dtype(values.dtype)
        if values.dtype == pl.Null or found == self.keys.dtype:
            return values
        if found == pl.Float64 and self.keys.dtype == pl.Int64:
            # 7.0 is the key 7; 7.5 is none.
            numbers = values.cast(pl.Float64)
            whole = numbers.is_finite() & (numbers == numbers.floor())
            return numbers.set(~whole.fill_null(False), None).cast(pl.Int64, strict=False)
        raise DataError(
            f"Column {self.column!r} is {values.dtype}, but the table's keys are "
            f"{self.keys.dtype}.",
            "Cast one of them, or name the right key.",
            self.column,
        )

    @cached_property
    def _places(self) -> Mapping[Any, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, names, table, places = self.column, self.names, self.table, self._places
        missing = dict.fromkeys(names, self.unseen)

        def look_up(row: dict[str, Any]) -> None:
            place = places.get(row.pop(column))
            row.update(missing if place is None else zip(names, table.row(place), strict=True))

        return look_up
