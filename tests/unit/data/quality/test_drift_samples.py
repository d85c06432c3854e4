"""A sample of rows that come in parts: the same whatever the parts, and every row as likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from sunloom.data.quality.drift import RowSample

FRAME = pl.DataFrame({"n": range(1_000), "t": [str(n) for n in range(1_000)]})


def drawn(rows: int, seed: int, parts: Sequence[int], frame: pl.DataFrame = FRAME) -> pl.DataFrame:
    sample, start = RowSample(rows, seed), 0
    for size in parts:
        sample.add(frame.slice(start, size))
        start += size
    taken = sample.sampled_rows()
    assert taken is not None
    return taken


@pytest.mark.parametrize("parts", [[1_000], [1, 999], [100] * 10, [7] * 143])
def test_the_parts_do_not_matter(parts: list[int]) -> None:
    whole = drawn(50, 3, [1_000])
    found = drawn(50, 3, parts)
    assert found.height == 50
    assert found["n"].is_sorted()
    if sum(parts) == 1_000:
        assert found.equals(whole)


def test_the_seed_decides_and_fewer_rows_are_all_kept() -> None:
    assert drawn(50, 3, [1_000]).equals(drawn(50, 3, [500, 500]))
    assert not drawn(50, 3, [1_000]).equals(drawn(50, 4, [1_000]))
    assert drawn(5_000, 3, [1_000]).equals(FRAME)
    assert RowSample(5, 0).sampled_rows() is None


def test_every_row_is_as_likely() -> None:
    counts = np.zeros(20)
    frame = FRAME.head(20)
    for seed in range(2_000):
        counts[drawn(5, seed, [3, 17], frame)["n"].to_numpy()] += 1
    # 500 of each; five standard deviations.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2_000 * 0.25 * 0.75)
