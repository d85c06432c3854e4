"""Operations on categories: lookups by level, one-hot columns, feature hashing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.data.exact_casts import cast_series_exactly
from sunloom.errors import DataError
from sunloom.preprocessing.columns import exact_decimal, levels_of
from sunloom.preprocessing.operations.protocol import (
    Expansion,
    RowFunction,
    SeveralColumns,
    Training,
)

Codes = NDArray[np.signedinteger[Any]]
_DTYPES = {"uint8": pl.UInt8, "float32": pl.Float32, "float64": pl.Float64}


def codes_of(series: pl.Series, levels: pl.Series) -> Codes:
    """Each value's index among the levels: their number for null, -1 for an unseen one; [rows]."""
    present = levels_of(series)
    if levels.dtype.is_decimal() != present.dtype.is_decimal():
        # By value, as for one row: Polars makes decimals of floats with digits that they do not
        # print, and none of truth values.
        values = present.unique().drop_nulls()
        known = {exact_decimal(level): place for place, level in enumerate(levels)}
        numbers = [known.get(exact_decimal(value), -1) for value in values]
        decimals = present.replace_strict(values, pl.Series(numbers, dtype=pl.Int32), default=None)
        return decimals.cast(pl.Int32).fill_null(len(levels)).to_numpy()
    # Exactly: of floats, 3.5 is no level of whole numbers, and least of all 3.
    values = cast_series_exactly(present, levels.dtype)
    if not len(levels):
        indices = pl.repeat(None, len(values), dtype=pl.Int32, eager=True)
    elif levels.dtype == pl.String:
        # An enumeration's own hash table; about twice as fast as a join on text.
        indices = values.cast(pl.Enum(levels), strict=False).to_physical().cast(pl.Int32)
    else:
        places = pl.int_range(len(levels), dtype=pl.Int32, eager=True)
        indices = values.replace_strict(levels, places, default=None, return_dtype=pl.Int32)
    codes: Codes = indices.fill_null(-1).to_numpy()
    if present.null_count():
        codes = np.where(present.is_null().to_numpy(), len(levels), codes)
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
        if self.levels.dtype.is_decimal():
            refuse = self.unseen == "error"

            def look_up_decimal(row: dict[str, Any]) -> None:
                value = exact_decimal(row.pop(name) if name not in names else row[name])
                if refuse and value not in known:
                    raise _unseen_error(name, value)
                row.update(zip(names, known.get(value, unseen), strict=True))

            return look_up_decimal
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
        is_decimal = self.levels.dtype.is_decimal()

        def spread(row: dict[str, Any]) -> None:
            value = row.pop(name)
            if is_decimal:
                value = exact_decimal(value)
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


_MASK = 0xFFFFFFFF


# Text repeats its terms, and hashing in plain Python is slow: a look-up is not.
@lru_cache(maxsize=100_000)
def murmur3(text: str) -> int:
    """MurmurHash3 of the UTF-8 text as a signed 32-bit number, seed 0."""
    data = text.encode()
    state, tail = 0, len(data) & ~3
    for start in range(0, tail, 4):
        state ^= _mix_block(int.from_bytes(data[start : start + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK
    if rest := data[tail:]:
        state ^= _mix_block(int.from_bytes(rest, "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    state ^= state >> 16
    return state - (1 << 32) if state >= 1 << 31 else state


def _mix_block(block: int) -> int:
    block = block * 0xCC9E2D51 & _MASK
    return (block << 15 | block >> 17) * 0x1B873593 & _MASK


def bucket_of(text: str, count: int, alternate: bool) -> tuple[int, float]:
    """Which of ``count`` features a text counts for, and with which sign."""
    hashed = murmur3(text)
    # -2**31 has no absolute value in 32 bits; this is what scikit-learn makes of it.
    if hashed == -(1 << 31):
        return ((1 << 31) - 1 - (count - 1)) % count, -1.0 if alternate else 1.0
    return abs(hashed) % count, -1.0 if alternate and hashed < 0 else 1.0


@dataclass(frozen=True)
class FeatureHash(SeveralColumns):
    """The sum over columns of what each counts for; a missing value counts for nothing.

    Attributes:
        sources: The columns.
        count: Features.
        alternate: Whether half of the values count negatively.
        prefix: Leading part of the features' names.
    """

    op: ClassVar[str] = "hash"
    count: int
    alternate: bool = True
    prefix: str = "hash"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return tuple(f"{self.prefix}_{i}" for i in range(self.count))

    @property
    def removes(self) -> tuple[str, ...]:
        """The columns."""
        return self.sources

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """The features."""
        table = np.zeros((self.count, frame.height))
        rows = np.arange(frame.height)
        for name in self.sources:
            values = levels_of(frame[name])
            if values.dtype.is_numeric() or values.dtype == pl.Boolean:
                bucket, sign = bucket_of(name, self.count, self.alternate)
                table[bucket] += sign * values.cast(pl.Float64).fill_null(0.0).to_numpy()
                continue
            levels = values.unique().drop_nulls()
            if len(levels):
                # Each level is hashed once, then looked up by its code.
                hashed = [bucket_of(f"{name}={x}", self.count, self.alternate) for x in levels]
                buckets, signs = (np.array(part) for part in zip(*hashed, strict=True))
                codes = values.drop_nulls().cast(pl.Enum(levels)).to_physical().to_numpy()
                known = rows[values.is_not_null().to_numpy()]
                table[buckets[codes], known] += signs[codes]
        return [pl.Series(name, table[i]) for i, name in enumerate(self.outputs)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        sources, count, alternate, names = self.sources, self.count, self.alternate, self.outputs

        def spread(row: dict[str, Any]) -> None:
            totals = [0.0] * count
            for name in sources:
                value = row.pop(name)
                if isinstance(value, str):
                    bucket, sign = bucket_of(f"{name}={value}", count, alternate)
                    totals[bucket] += sign
                elif value is not None:
                    bucket, sign = bucket_of(name, count, alternate)
                    totals[bucket] += sign * value
            row.update(zip(names, totals, strict=True))

        return spread
