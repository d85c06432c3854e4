"""Data sets: plugins that give raw rows, and their preparation to checked Parquet on Ray.

A plugin parses its rows and derives tables from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from sunloom.config import Settings
from sunloom.config.data import DataRecipe
from sunloom.core.cluster import connect
from sunloom.core.files import atomic_path
from sunloom.core.plugins import load_plugin
from sunloom.core.ray_tasks import map_parts, unwrap_task_errors
from sunloom.core.telemetry import get_logger
from sunloom.data.quarantine import POSITION, REASON, write_quarantine
from sunloom.data.shuffle import Packet, from_packet, partition_by_hash, to_packet
from sunloom.errors import DataError, DataQualityError

GROUP = "sunloom.datasets"


@runtime_checkable
class DataSet(Protocol):
    """A source of rows, its parser, and the tables derived from it.

    The object travels to Ray workers, so it must pickle by reference (a module's constant of a
    plain class).
    """

    # A protocol and no base class: a plugin imports nothing of the platform but two constants.
    name: str
    """The folder's name under ``outputs/data``."""
    table: str
    """Name of the main table."""
    identity: Sequence[str]
    """Columns that make two rows exact duplicates of each other."""

    def raw(self) -> pl.DataFrame:
        """Every row as text, with ``position``."""
        ...

    def parse(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Typed rows in the same order and number, with ``position`` and ``reason``."""
        ...

    def notes(self, rows: pl.DataFrame) -> dict[str, int]:
        """Counts of unusual rows that are kept."""
        ...

    def derive(self, main: pl.LazyFrame) -> Mapping[str, pl.LazyFrame]:
        """Further tables made from the main one."""
        ...


@runtime_checkable
class LabelledDataSet(DataSet, Protocol):
    """A data set that also gives the entities known at an as-of time, and their labels."""

    label: str
    """The label's column."""

    def entities(self, tables: Mapping[str, pl.LazyFrame], as_of: datetime) -> pl.DataFrame:
        """The entities known at the as-of time: key and ``event_time``, sorted by key."""
        ...

    def outcomes(self, tables: Mapping[str, pl.LazyFrame], rows: pl.DataFrame) -> pl.Series:
        """The label of each row, in order."""
        ...


@dataclass(frozen=True)
class PreparationSummary:
    """Row counts of a preparation, as ``summary.json`` has them.

    Attributes:
        rows_in: Rows of the source.
        rows_out: Rows of the main table.
        quarantined: Reason to number of quarantined rows.
        kept: Unusual rows that stayed, by name.
    """

    rows_in: int
    rows_out: int
    quarantined: Mapping[str, int]
    kept: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_out + self.bad_rows:
            raise DataQualityError(
                f"{self.rows_in} rows came in, but {self.rows_out} went out and {self.bad_rows} "
                "were quarantined: rows were lost or doubled on the way."
            )

    @property
    def bad_rows(self) -> int:
        """Quarantined rows, all reasons."""
        return sum(self.quarantined.values())

    @property
    def bad_share(self) -> float:
        """Share of the rows that was quarantined."""
        return self.bad_rows / self.rows_in if self.rows_in else 0.0

    def check(self, max_bad_share: float, quarantine: Path) -> None:
        """Stop above the threshold, and where no row is left.

        Raises:
            DataQualityError: Names shares, reasons and the quarantine file.
        """
        # Without rows there is no table to write, whatever share of them the recipe allows.
        if self.bad_share <= max_bad_share and self.rows_out:
            return
        reasons = ", ".join(f"{reason}: {n}" for reason, n in self.quarantined.items())
        bound = f"more than max_bad_share {max_bad_share:.2%}" if self.rows_out else "all of them"
        raise DataQualityError(
            f"{self.bad_rows} of {self.rows_in} rows ({self.bad_share:.2%}) are bad, {bound} "
            f"({reasons}).",
            f"Look at {quarantine}; then mend the source or raise quality.max_bad_share.",
            "quality.max_bad_share",
        )


@dataclass(frozen=True)
class DatasetSummary:
    """A data set's ``summary.json``: row counts and reasons of the quarantine."""

    dataset: str
    summary: Mapping[str, Any]


def prepare_dataset(recipe: DataRecipe) -> PreparationSummary:
    """Parse, check and write the recipe's data set; connects to Ray if necessary.

    Writes ``<table>/*.parquet``, the derived tables, ``quarantine.jsonl`` and ``summary.json``
    into the recipe's data folder. The previous tables stay whole until the new ones are.

    Raises:
        DataError: The source has no rows.
        DataQualityError: More rows are bad than the recipe allows, or all; nothing but the
            quarantine file is written.
    """
    dataset: DataSet = load_plugin(GROUP, recipe.dataset, DataSet)
    raw = dataset.raw()
    if raw.is_empty():
        raise DataError(
            f"The data set {recipe.dataset} has no rows.",
            "Nothing was written; the tables of an earlier run stay.",
        )
    connect(recipe)
    parsed = _parse(dataset, raw, recipe.preparation.blocks)
    bad = parsed.filter(pl.col(REASON).is_not_null())
    good = parsed.filter(pl.col(REASON).is_null()).drop(REASON).sort(POSITION)
    folder = recipe.data_folder()
    quarantine = folder / "quarantine.jsonl"
    # Beside the parsed values the raw text: what could not be parsed is null there.
    counts = write_quarantine(bad.join(raw, on=POSITION, how="left", suffix="_raw"), quarantine)
    summary = PreparationSummary(
        rows_in=raw.height, rows_out=good.height, quarantined=counts, kept=dataset.notes(good)
    )
    summary.check(recipe.quality.max_bad_share, quarantine)
    _write_tables(dataset, good, folder, recipe.preparation.blocks)
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=2))
    return summary


def dataset_summaries(settings: Settings) -> list[DatasetSummary]:
    """The summary of each prepared data set; one that cannot be read is left out."""
    summaries = []
    for path in sorted((settings.paths.outputs / "data").glob("*/summary.json")):
        try:
            summaries.append(DatasetSummary(path.parent.name, json.loads(path.read_text())))
        except (OSError, ValueError) as error:
            # One broken file must not hide the figures of the others.
            get_logger("monitoring").warning("%s cannot be read: %s", path, error)
    return summaries


def open_tables(folder: Path) -> Mapping[str, pl.LazyFrame]:
    """The prepared tables of a data folder by name."""
    tables = {file.stem: pl.scan_parquet(file) for file in folder.glob("*.parquet")}
    for part in folder.iterdir():
        if part.is_dir() and any(part.glob("*.parquet")):
            tables[part.name] = pl.scan_parquet(part / "*.parquet")
    return tables


def _parse(dataset: DataSet, raw: pl.DataFrame, blocks: int) -> pl.DataFrame:
    """Every row typed, with its reason where it cannot be used, in no particular order."""
    import ray

    task = ray.remote(_parse_and_partition).options(num_returns=1 + blocks)
    with unwrap_task_errors():
        parsed = [
            task.remote(to_packet(rows), dataset=dataset, partitions=blocks)
            for rows in _slices(raw, blocks)
        ]
        # A task that waited for packets would give its core away, and Ray start one more worker.
        ray.get([height for height, *_ in parsed])
        # Ray Data's group-by would start processes of its own, with another environment, for this.
        parts = [[packets[1 + number] for packets in parsed] for number in range(blocks)]
        marked = map_parts(partial(_mark_in_worker, dataset=dataset), parts)
        return pl.concat(map(from_packet, marked), how="vertical_relaxed")


def _slices(rows: pl.DataFrame, count: int) -> Iterator[pl.DataFrame]:
    """The rows in order, in no more slices than that."""
    # Rounded up: no more slices. range() takes no step of 0, as of an empty source.
    size = max(1, -(-rows.height // count))
    return (rows.slice(start, size) for start in range(0, rows.height, size))


def _parse_and_partition(raw: Packet, *, dataset: DataSet, partitions: int) -> list[int | Packet]:
    """In a worker: number of rows of a slice, and of them a packet for each partition."""
    rows = dataset.parse(from_packet(raw))
    # Equal rows meet in one partition, whose task sees all duplicates of its rows.
    packets = map(to_packet, partition_by_hash(rows, dataset.identity, partitions))
    return [rows.height, *packets]


def _mark_in_worker(packets: Sequence[Any], *, dataset: DataSet) -> Packet:
    import ray

    # Relaxed: a slice without a bad row may have a column of reasons without a type.
    tables = [from_packet(ray.get(packet)) for packet in packets]
    rows = pl.concat(tables, how="vertical_relaxed")
    return to_packet(mark_duplicates(rows, dataset))


def mark_duplicates(rows: pl.DataFrame, dataset: DataSet) -> pl.DataFrame:
    """Give every row but the first of each group of equal good rows the reason ``duplicate``."""
    # Slices may arrive in any order; the first row is the first in the source.
    rows = rows.sort(POSITION)
    good = pl.col(REASON).is_null()
    # Good rows are counted apart: a bad row must not make the good one after it a duplicate.
    repeated = good & (pl.struct(dataset.identity).cum_count().over([*dataset.identity, good]) > 1)
    reason = pl.when(repeated).then(pl.lit("duplicate")).otherwise(pl.col(REASON))
    return rows.with_columns(reason.alias(REASON))


def _write_tables(dataset: DataSet, good: pl.DataFrame, folder: Path, blocks: int) -> None:
    new = folder / f".{dataset.table}.new"
    # Files of a run that was killed would be read as rows of this one.
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    # Here, not in workers: this process has the rows, and reads the files for derived tables.
    for number, rows in enumerate(_slices(good.drop(POSITION), blocks)):
        rows.write_parquet(new / f"{number:06d}.parquet")
    for name, frame in dataset.derive(pl.scan_parquet(new / "*.parquet")).items():
        with atomic_path(folder / f"{name}.parquet") as partial_file:
            frame.collect().write_parquet(partial_file)
    # A folder cannot be replaced in one step as a file can: two renames leave the least gap.
    old = folder / f".{dataset.table}.old"
    shutil.rmtree(old, ignore_errors=True)
    final = folder / dataset.table
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
