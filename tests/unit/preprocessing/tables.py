"""Tables that several tests prepare, and the checks they share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal
from sklearn import datasets

from sunloom.preprocessing.artifact import load, save
from sunloom.preprocessing.pipeline import FittedPipeline


@cache
def bundled(name: str) -> pl.DataFrame:
    """One of scikit-learn's sets, with its ``target``."""
    return pl.from_pandas(getattr(datasets, f"load_{name}")(as_frame=True).frame)


@cache
def gappy(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Random numbers of many shapes, with gaps."""
    rng = np.random.default_rng(seed)
    columns = {
        "normal": rng.normal(100, 3, rows),
        "skewed": rng.lognormal(0, 2, rows),
        "whole": rng.integers(-5, 6, rows).astype(float),
        "tiny": rng.normal(0, 1e-3, rows),
        "huge": rng.lognormal(12, 1, rows),
        "constant": np.full(rows, 3.25),
    }
    frame = pl.DataFrame(columns)
    holes = rng.random((rows, len(columns))) < 0.15
    return frame.with_columns(
        pl.when(pl.Series(~holes[:, i])).then(pl.col(name)).alias(name)
        for i, name in enumerate(columns)
    )


def table(name: str) -> pl.DataFrame:
    """Numbers only: a bundled set without its target, or the random one."""
    return gappy() if name == "gappy" else bundled(name).drop("target")


@cache
def colours(rows: int = 500, seed: int = 1) -> pl.DataFrame:
    """Categories with gaps and rare levels, and three kinds of target."""
    rng = np.random.default_rng(seed)
    levels = np.array(["red", "blue", "green", "teal", "pink", "grey"])
    colour = rng.choice(levels, rows, p=[0.4, 0.3, 0.2, 0.06, 0.03, 0.01])
    size = rng.choice(["S", "M", "L"], rows)
    score = rng.normal(size=rows) + (colour == "red")
    return pl.DataFrame(
        {
            "colour": [None if rng.random() < 0.1 else str(c) for c in colour],
            "size": size.tolist(),
            "amount": rng.normal(size=rows),
            "score": score,
            "bought": (score > 0.5).astype(np.int64),
            "grade": rng.choice(["a", "b", "c"], rows).tolist(),
        }
    )


def assert_same_everywhere(
    fitted: FittedPipeline, frame: pl.DataFrame, folder: Path
) -> pl.DataFrame:
    """Frame, stored and read again, and row by row: the same; gives the frame's result."""
    prepared = fitted.apply_frame(frame)
    assert prepared.height == frame.height
    save(fitted, folder)
    again = load(folder)
    assert_frame_equal(again.apply_frame(frame), prepared, check_exact=True)
    some = frame.head(60)
    rows = [again.apply_row(row) for row in some.to_dicts()]
    one_by_one = pl.DataFrame(
        rows, schema_overrides=dict(prepared.schema), infer_schema_length=None
    )
    assert_frame_equal(
        one_by_one.select(prepared.columns), prepared.head(60), rel_tol=1e-9, abs_tol=1e-12
    )
    return prepared


def as_array(frame: pl.DataFrame) -> Any:
    """A frame of numbers as an array, null as NaN."""
    return frame.cast(pl.Float64).to_numpy()
