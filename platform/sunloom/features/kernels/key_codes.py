"""Key columns to whole numbers that rows and questions share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from sunloom.features.kernels.ranges import Ints

NO_KEY = -1


class KeyCodec:
    """Codes of the keys that rows have; what no row has, and null, is ``NO_KEY``.

    Args:
        columns: The rows' key columns, one or more.
    """

    def __init__(self, columns: Sequence[pl.Series]) -> None:
        self._offset: int | None = None
        self._highest = NO_KEY
        self._known: pl.DataFrame | None = None
        if len(columns) == 1 and columns[0].dtype == pl.Int64:
            self._use_offset(columns[0])
        if self._offset is None:
            named = _named(columns)
            self._known = named.drop_nulls().unique(maintain_order=True).with_row_index("code")

    def codes(self, columns: Sequence[pl.Series]) -> Ints:
        """One code a row."""
        if self._offset is not None:
            column = columns[0]
            keys = column.fill_null(self._offset - 1) if column.null_count() else column
            codes = np.asarray(keys.to_numpy() - self._offset)
            outside = (codes < 0) | (codes > self._highest - self._offset)
            if outside.any():
                codes[outside] = NO_KEY
            return codes
        assert self._known is not None
        named = _named(columns)
        joined = named.join(self._known, on=named.columns, how="left", maintain_order="left")
        return joined["code"].cast(pl.Int64).fill_null(NO_KEY).to_numpy()

    def _use_offset(self, column: pl.Series) -> None:
        low, high = column.min(), column.max()
        if not isinstance(low, int) or not isinstance(high, int):
            return
        # Close-packed numbers are their own codes; a wide spread would make room for none.
        if high - low < 8 * len(column) + 1024 and low > -(2**62):
            self._offset, self._highest = low, high


def _named(columns: Sequence[pl.Series]) -> pl.DataFrame:
    return pl.DataFrame({f"k{index}": column for index, column in enumerate(columns)})
