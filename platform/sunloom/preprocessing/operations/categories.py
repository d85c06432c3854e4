"""Operations on the levels of one column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.protocol import RowFunction, Training

_DTYPES = {"uint8": pl.UInt8, "float32": pl.Float32, "float64": pl.Float64}


def codes_of(series: pl.Series, levels: pl.Series) -> Any:
    """Each value's place among the levels: their number for null, -1 for one never seen; int64."""
    values = levels_of(series).cast(levels.dtype)
    places = pl.int_range(len(levels), dtype=pl.Int32, eager=True)
    if not len(levels):
        found = pl.repeat(None, len(values), dtype=pl.Int32, eager=True)
    elif levels.dtype == pl.String:
        # An enumeration's own hash table; about twice as fast as a join on text.
        found = values.cast(pl.Enum(levels), strict=False).to_physical().cast(pl.Int32)
    else:
        found = values.replace_strict(levels, places, default=None, return_dtype=pl.Int32)
    codes = found.fill_null(-1).to_numpy()
    if values.null_count():
        codes = np.where(values.is_null().to_numpy(), len(levels), codes)
    return codes


@dataclass(frozen=True)
class CategoryLookup(Expansion):
    """A number for each level.

    Attributes:
        column: The column.
        names: The column's own name, or one an output.
        levels: Levels without the missing one.
        table: One number column an output: a row a level, then one for missing, one for unseen.
        unseen: What a level never seen is.
        folds: For rows that are being fitted: a table like ``table`` for each fold. Not stored.
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
            DataError: A level was never seen and that is an error.
        """
        codes = codes_of(frame[self.column], self.levels)
        if self.unseen == "error":
            _refuse_unseen(frame[self.column], codes, self.column)
        if training is None or not self.folds:
            # The last row is the one for -1.
            return [self.table.to_series(i).gather(codes % self.table.height).alias(name)
                    for i, name in enumerate(self.names)]  # fmt: skip
        fold, height = training.folds(*self.cv), self.table.height
        stacked = pl.concat(self.folds)
        places = fold * height + codes % height
        return [stacked.to_series(i).gather(places).alias(n) for i, n in enumerate(self.names)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        rows = self.table.rows()
        known: dict[Any, tuple[Any, ...]] = dict(zip(self.levels, rows, strict=False))
        known[None] = rows[len(self.levels)]
        name, names, unseen = self.column, self.names, rows[-1]
        if self.unseen == "error":

            def strict(row: dict[str, Any]) -> None:
                value = row.pop(name) if name not in names else row[name]
                if value not in known:
                    raise _unseen_error(name, value)
                row.update(zip(names, known[value], strict=True))

            return strict
        if names == (name,):
            single = {level: values[0] for level, values in known.items()}
            other = unseen[0]

            def one(row: dict[str, Any]) -> None:
                row[name] = single.get(row[name], other)

            return one

        def many(row: dict[str, Any]) -> None:
            row.update(zip(names, known.get(row.pop(name), unseen), strict=True))

        return many


@dataclass(frozen=True)
class OneHot(Expansion):
    """Zeros and ones.

    Attributes:
        column: The column.
        names: Columns of the result.
        levels: Levels without the missing one.
        places: Column that each level sets, -1 for none; then one for missing, one for unseen.
        unseen: What a level never seen is.
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
        """One column a name.

        Raises:
            DataError: A level was never seen and that is an error.
        """
        codes = codes_of(frame[self.column], self.levels)
        if self.unseen == "error":
            gone = codes == len(self.levels)
            checked = np.where(gone, -1, codes) if self._missing_is_unseen else codes
            _refuse_unseen(frame[self.column], checked, self.column)
        places = self.places.to_numpy()[codes % len(self.places)]
        narrow = places.astype(np.int16) if len(self.names) < 30_000 else places
        kind = _DTYPES[self.dtype]
        if kind == pl.UInt8:
            return [pl.Series(n, (narrow == i).view(np.uint8)) for i, n in enumerate(self.names)]
        return [pl.Series(n, narrow == i).cast(kind) for i, n in enumerate(self.names)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        places = self.places.to_list()
        known: dict[Any, int] = dict(zip(self.levels, places, strict=False))
        if places[len(self.levels)] != -2:
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


def _refuse_unseen(series: pl.Series, codes: Any, column: str) -> None:
    if (where := np.flatnonzero(codes == -1)).size:
        raise _unseen_error(column, series[int(where[0])])


def _unseen_error(column: str, value: Any) -> DataError:
    return DataError(
        f"Column {column!r} holds {value!r}, a level never seen when fitting.",
        "Fit again, or set handle_unknown.",
        column,
    )
