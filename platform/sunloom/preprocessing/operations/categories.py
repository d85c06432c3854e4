"""Operations on the levels of one column: lookups and one-hot columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.protocol import RowFunction, Training

Codes = NDArray[np.signedinteger[Any]]
_DTYPES = {"uint8": pl.UInt8, "float32": pl.Float32, "float64": pl.Float64}


def codes_of(series: pl.Series, levels: pl.Series) -> Codes:
    """Each value's index among the levels: their number for null, -1 for an unseen one; [rows]."""
    values = levels_of(series).cast(levels.dtype)
    if not len(levels):
        indices = pl.repeat(None, len(values), dtype=pl.Int32, eager=True)
    elif levels.dtype == pl.String:
        # An enumeration's own hash table; about twice as fast as a join on text.
        indices = values.cast(pl.Enum(levels), strict=False).to_physical().cast(pl.Int32)
    else:
        places = pl.int_range(len(levels), dtype=pl.Int32, eager=True)
        indices = values.replace_strict(levels, places, default=None, return_dtype=pl.Int32)
    codes: Codes = indices.fill_null(-1).to_numpy()
    if values.null_count():
        codes = np.where(values.is_null().to_numpy(), len(levels), codes)
    return codes


@dataclass(frozen=True)
class CategoryLookup(Expansion):
    """A number for each level.

    Attributes:
        column: The column.
        names: The column's own name, or one per output.
        levels: Levels without the missing one.
        table: One number column per output: a row per level, then one for missing, one for unseen.
        unseen: What an unseen level is.
        folds: For training rows: a table like ``table`` for each fold. Not stored.
        cv: Number of folds and their seed. Not stored.
    """

    op: ClassVar[str] = "lookup"
    levels: pl.Series
    table: pl.DataFrame
    unseen: Literal["value", "error"] = "value"
    folds: tuple[pl.DataFrame, ...] = field(default=(), metadata={"stored": False})
    cv: tuple[int, int] = field(default=(0, 0), metadata={"stored": False})

    @property
    def removes(self) -> tuple[str, ...]:
        """The column, where the outputs have other names."""
        return () if self.column in self.names else (self.column,)

    def columns(self, frame: pl.DataFrame, training: Training = None, /) -> Sequence[pl.Series]:
        """The numbers.

        Raises:
            DataError: A level is unseen and that is an error.
        """
        codes = codes_of(frame[self.column], self.levels)
        if self.unseen == "error":
            _refuse_unseen(frame[self.column], codes, self.column)
        # The last row is the one for -1.
        table, places = self.table, codes % self.table.height
        if training is not None and self.folds:
            # Out-of-fold: a training row is encoded by what the other folds have shown.
            table = pl.concat(self.folds)
            places = training.folds(*self.cv) * self.table.height + places
        return [table.to_series(i).gather(places).alias(name) for i, name in enumerate(self.names)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        rows = self.table.rows()
        known: dict[Any, tuple[Any, ...]] = dict(zip(self.levels, rows, strict=False))
        known[None] = rows[len(self.levels)]
        name, names, unseen = self.column, self.names, rows[-1]
        if self.unseen == "error":

            def look_up_known(row: dict[str, Any]) -> None:
                value = row.pop(name) if name not in names else row[name]
                if value not in known:
                    raise _unseen_error(name, value)
                row.update(zip(names, known[value], strict=True))

            return look_up_known
        if names == (name,):
            numbers = {level: values[0] for level, values in known.items()}
            default = unseen[0]

            def replace_value(row: dict[str, Any]) -> None:
                row[name] = numbers.get(row[name], default)

            return replace_value

        def look_up(row: dict[str, Any]) -> None:
            row.update(zip(names, known.get(row.pop(name), unseen), strict=True))

        return look_up


@dataclass(frozen=True)
class OneHot(Expansion):
    """Columns of zeros and ones.

    Attributes:
        column: The column.
        names: Columns of the result.
        levels: Levels without the missing one.
        places: Column that each level sets, -1 for none; then one for missing, one for unseen.
        unseen: What an unseen level is.
        dtype: Type of the columns.
    """

    op: ClassVar[str] = "one_hot"
    levels: pl.Series
    places: pl.Series
    unseen: Literal["value", "error"] = "value"
    dtype: Literal["uint8", "float32", "float64"] = "uint8"

    @cached_property
    def _missing_is_unseen(self) -> bool:
        return bool(self.places[len(self.levels)] == -2)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per name.

        Raises:
            DataError: A level is unseen and that is an error.
        """
        codes = codes_of(frame[self.column], self.levels)
        if self.unseen == "error":
            is_missing = codes == len(self.levels)
            checked = np.where(is_missing, -1, codes) if self._missing_is_unseen else codes
            _refuse_unseen(frame[self.column], checked, self.column)
        places = self.places.to_numpy()[codes % len(self.places)]
        # Read once per output column: two bytes a value are less memory to go through than eight.
        narrow = places.astype(np.int16) if len(self.names) < 30_000 else places
        dtype = _DTYPES[self.dtype]
        if dtype == pl.UInt8:
            return [pl.Series(n, (narrow == i).view(np.uint8)) for i, n in enumerate(self.names)]
        return [pl.Series(n, narrow == i).cast(dtype) for i, n in enumerate(self.names)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        places = self.places.to_list()
        known: dict[Any, int] = dict(zip(self.levels, places, strict=False))
        if not self._missing_is_unseen:
            known[None] = places[len(self.levels)]
        one, zero = (1, 0) if self.dtype == "uint8" else (1.0, 0.0)
        zeros = dict.fromkeys(self.names, zero)
        name, names, unseen, refuse = self.column, self.names, places[-1], self.unseen == "error"

        def spread(row: dict[str, Any]) -> None:
            value = row.pop(name)
            if refuse and value not in known:
                raise _unseen_error(name, value)
            place = known.get(value, unseen)
            row.update(zeros)
            if place >= 0:
                row[names[place]] = one

        return spread


def _refuse_unseen(series: pl.Series, codes: Codes, column: str) -> None:
    if (where := np.flatnonzero(codes == -1)).size:
        raise _unseen_error(column, series[int(where[0])])


def _unseen_error(column: str, value: Any) -> DataError:
    return DataError(
        f"Column {column!r} holds {value!r}, a level never seen when fitting.",
        "Fit again, or set handle_unknown.",
        column,
    )
