"""A uniform sample of rows that arrive in parts."""

from __future__ import annotations

import numpy as np
import polars as pl

# Null characters keep the names apart from every column that a source may have.
_KEY, _AT = "\0key", "\0at"


class RowSample:
    """Keeps a fixed number of all rows that were added, each as likely as any other.

    Every row draws a number in turn, and the rows of the smallest numbers stay: the same rows, in
    the same order and with the same seed, give the same sample, however they are divided.

    Args:
        rows: How many to keep; all where there are no more.
        seed: Of the draws.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._rows = rows
        self._random = np.random.default_rng(seed)
        self._kept: pl.DataFrame | None = None
        self.seen = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Draw a number for each row of a part."""
        keys = self._random.random(frame.height)
        at = np.arange(self.seen, self.seen + frame.height)
        self.seen += frame.height
        drawn = frame.with_columns(pl.Series(_KEY, keys), pl.Series(_AT, at))
        candidates = drawn if self._kept is None else pl.concat([self._kept, drawn])
        # A row that is not among the smallest of the parts so far is not among those of all.
        self._kept = candidates.bottom_k(self._rows, by=_KEY)

    def sampled_rows(self) -> pl.DataFrame | None:
        """The sample in the order of the rows; None where no part was added."""
        return None if self._kept is None else self._kept.sort(_AT).drop(_KEY, _AT)
