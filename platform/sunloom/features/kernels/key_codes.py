"""Codes of keys: key columns as whole numbers that source rows and query rows share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from sunloom.features.kernels.ranges import Ints

NO_KEY = -1


class KeyCodec:
    """Codes of the keys that the source rows have; any other key, and null, is ``NO_KEY``.

    Args:
        columns: The source rows' key columns, one or more.
    """

    def __init__(self, columns: Sequence[pl.Series]) -> None:
        self._offset: int | None = None
        self._highest = NO_KEY
        self._known: pl.DataFrame | None = None
        if len(columns) == 1 and columns[0].dtype == pl.Int64:
            self._use_offset(columns[0])
        if self._offset is None:
            table = _key_table(columns)
            self._known = table.drop_nulls().unique(maintain_order=True).with_row_index("code")

    def codes(self, columns: Sequence[pl.Series]) -> Ints:
        """One code per row."""
        if self._offset is not None:
            column = columns[0]
            # to_numpy of a column with nulls gives floats, which lose large keys' last digits.
            keys = column.fill_null(self._offset - 1) if column.null_count() else column
            codes = np.asarray(keys.to_numpy() - self._offset)
            outside = (codes < 0) | (codes > self._highest - self._offset)
            if outside.any():
                codes[outside] = NO_KEY
            return codes
        assert self._known is not None
        table = _key_table(columns)
        joined = table.join(self._known, on=table.columns, how="left", maintain_order="left")
        return joined["code"].cast(pl.Int64).fill_null(NO_KEY).to_numpy()

    def _use_offset(self, column: pl.Series) -> None:
        low, high = column.min(), column.max()
        if not isinstance(low, int) or not isinstance(high, int):
            return
        # Close-packed numbers are their own codes, without a join; a wide spread would cost the
        # timeline more memory than the rows. The code of null, one below the offset, must fit too.
        if high - low < 8 * len(column) + 1024 and low > -(2**62):
            self._offset, self._highest = low, high


def _key_table(columns: Sequence[pl.Series]) -> pl.DataFrame:
    # Both sides of a join name their key columns differently: here they are numbered.
    return pl.DataFrame({f"k{index}": column for index, column in enumerate(columns)})
