"""Columns hashed into a fixed number of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training

_MASK = 0xFFFFFFFF


@lru_cache(maxsize=100_000)
def murmur3(text: str) -> int:
    """MurmurHash3 of the UTF-8 text as a signed 32-bit number, seed 0."""
    data = text.encode()
    state, tail = 0, len(data) & ~3
    for start in range(0, tail, 4):
        state ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK
    if rest := data[tail:]:
        state ^= _scrambled(int.from_bytes(rest, "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    state ^= state >> 16
    return state - (1 << 32) if state >= 1 << 31 else state


def _scrambled(block: int) -> int:
    block = block * 0xCC9E2D51 & _MASK
    return (block << 15 | block >> 17) * 0x1B873593 & _MASK


def place_of(text: str, count: int, alternate: bool) -> tuple[int, float]:
    """Which of ``count`` features a text counts for, and with which sign."""
    hashed = murmur3(text)
    if hashed == -(1 << 31):  # has no absolute value in 32 bits; scikit-learn's way out
        return ((1 << 31) - 1 - (count - 1)) % count, -1.0 if alternate else 1.0
    return abs(hashed) % count, -1.0 if alternate and hashed < 0 else 1.0


@dataclass(frozen=True)
class Hash:
    """The sum over columns of what each counts for; a missing value counts for nothing."""

    op: ClassVar[str] = "hash"
    sources: tuple[str, ...]
    count: int
    alternate: bool = True
    prefix: str = "hash"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return self.sources

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
                place, sign = place_of(name, self.count, self.alternate)
                table[place] += sign * values.cast(pl.Float64).fill_null(0.0).to_numpy()
                continue
            levels = values.unique().drop_nulls()
            found = [place_of(f"{name}={x}", self.count, self.alternate) for x in levels]
            known = pl.DataFrame(found, schema=["place", "sign"], orient="row") if found else None
            if known is not None:
                there = values.is_not_null().to_numpy()
                codes = values.drop_nulls().cast(pl.Enum(levels)).to_physical().to_numpy()
                places, signs = known["place"].to_numpy()[codes], known["sign"].to_numpy()[codes]
                table[places, rows[there]] += signs
        return [pl.Series(name, table[i]) for i, name in enumerate(self.outputs)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        sources, count, alternate, names = self.sources, self.count, self.alternate, self.outputs

        def spread(row: dict[str, Any]) -> None:
            totals = [0.0] * count
            for name in sources:
                value = row.pop(name)
                if isinstance(value, str):
                    place, sign = place_of(f"{name}={value}", count, alternate)
                    totals[place] += sign
                elif value is not None:
                    place, sign = place_of(name, count, alternate)
                    totals[place] += sign * value
            row.update(zip(names, totals, strict=True))

        return spread
