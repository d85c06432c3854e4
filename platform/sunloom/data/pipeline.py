"""A data set from raw rows to checked Parquet, through Ray Data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from sunloom.config.data.cleaning import DataRecipe
from sunloom.core.files import atomic_path
from sunloom.data.datasets import POSITION, REASON, DataSet, open_dataset
from sunloom.data.quarantine import Summary, write_quarantine

if TYPE_CHECKING:
    import pyarrow as pa

_PART = "_part"


def prepare(recipe: DataRecipe) -> dict[str, Any]:
    """Parse, check and write the recipe's data set; needs a connected cluster.

    Writes ``<table>/*.parquet``, the derived tables, ``quarantine.jsonl`` and ``summary.json``
    into the recipe's data folder. The previous tables stay whole until the new ones are.

    Returns:
        ``rows_in``, ``rows_out``, ``quarantined`` and ``kept``.

    Raises:
        DataQualityError: More rows are bad than the recipe allows; nothing but the quarantine
            file is written.
    """
    dataset = open_dataset(recipe.dataset)
    raw = dataset.raw()
    parsed = _parse(dataset, raw, recipe.preparation.blocks)
    bad = parsed.filter(pl.col(REASON).is_not_null())
    good = parsed.filter(pl.col(REASON).is_null()).drop(REASON).sort(POSITION)
    folder = recipe.data_folder()
    quarantine = folder / "quarantine.jsonl"
    evidence = bad.join(raw, on=POSITION, how="left", suffix="_raw")
    counts = write_quarantine(evidence, quarantine)
    summary = Summary(raw.height, good.height, counts, dataset.notes(good))
    summary.check(recipe.quality.max_bad_share, quarantine)
    _write_tables(dataset, good, folder, recipe.preparation.blocks)
    (folder / "summary.json").write_text(json.dumps(summary.as_dict(), indent=2))
    return summary.as_dict()


def open_tables(folder: Path) -> Mapping[str, pl.LazyFrame]:
    """The prepared tables of a data folder by name."""
    tables = {file.stem: pl.scan_parquet(file) for file in folder.glob("*.parquet")}
    for part in folder.iterdir():
        if part.is_dir() and any(part.glob("*.parquet")):
            tables[part.name] = pl.scan_parquet(part / "*.parquet")
    return tables


def _parse(dataset: DataSet, raw: pl.DataFrame, blocks: int) -> pl.DataFrame:
    import ray.data

    size = max(1, -(-raw.height // blocks))
    slices = [raw.slice(start, size).to_arrow() for start in range(0, raw.height, size)]
    rows = ray.data.from_arrow(slices).map_batches(
        _parse_block,
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"dataset": dataset, "parts": blocks},
    )
    marked = rows.groupby(_PART, num_partitions=blocks).map_groups(
        mark_duplicates_block, batch_format="pyarrow", fn_kwargs={"dataset": dataset}
    )
    return pl.concat([_frame(batch) for batch in marked.iter_batches(batch_format="pyarrow")])


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _parse_block(table: pa.Table, *, dataset: DataSet, parts: int) -> pa.Table:
    parsed = dataset.parse(_frame(table))
    part = (pl.struct(dataset.identity).hash(seed=0) % parts).cast(pl.Int64).alias(_PART)
    return parsed.with_columns(part).to_arrow()


def mark_duplicates_block(table: pa.Table, *, dataset: DataSet) -> pa.Table:
    """Give every row but the first of each group of equal good rows the reason ``duplicate``."""
    rows = _frame(table).sort(POSITION)
    good = pl.col(REASON).is_null()
    repeated = good & (pl.struct(dataset.identity).cum_count().over([*dataset.identity, good]) > 1)
    reason = pl.when(repeated).then(pl.lit("duplicate")).otherwise(pl.col(REASON))
    return rows.with_columns(reason.alias(REASON)).drop(_PART).to_arrow()


def _write_tables(dataset: DataSet, good: pl.DataFrame, folder: Path, blocks: int) -> None:
    import ray.data

    fresh = folder / f".{dataset.table}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    table = ray.data.from_arrow(good.drop(POSITION).to_arrow()).repartition(blocks)
    table.write_parquet(str(fresh.absolute()))
    for name, frame in dataset.derive(pl.scan_parquet(fresh / "*.parquet")).items():
        with atomic_path(folder / f"{name}.parquet") as partial:
            frame.collect().write_parquet(partial)
    old = folder / f".{dataset.table}.old"
    shutil.rmtree(old, ignore_errors=True)
    final = folder / dataset.table
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)
