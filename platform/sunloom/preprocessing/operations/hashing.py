"""Columns hashed into a fixed number of features, as scikit-learn hashes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.operations.column_shapes import SeveralColumns
from sunloom.preprocessing.operations.protocol import RowFunction, Training

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
            if values.dtype in (pl.Int64, pl.Float64, pl.Boolean):
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
