"""Point-in-time features for rows: exactly one output row for each input row, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from sunloom.core.files import atomic_path
from sunloom.data.sources.table_files import data_files, read_table
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.cluster import DEFAULT_PARTITIONS, historical_ray
from sunloom.features.historical.engine_choice import EngineChoice, EngineName, choose_engine
from sunloom.features.historical.local import historical_polars
from sunloom.features.historical.result import HistoricalResult, quarantine_damaged
from sunloom.features.sources.scan import SourceScan, open_scan

MAX_BAD_SHARE = 0.01
_TEXT_ROW_BYTES = 32


class HistoricalSummary(BaseModel, frozen=True):
    """What was computed, and where it was written.

    Attributes:
        rows: Rows written.
        features: Names of the features.
        engine: Who computed.
        why: Why that engine.
        out: The Parquet file.
        quarantined: Reason to number of source rows that could not be read.
        validations: Feature to number of values outside its limits; unset where there are none.
        resolver_failures: Function to number of failed calls; unset where there are none.
    """

    rows: int
    features: tuple[str, ...]
    engine: str
    why: str
    out: str
    quarantined: Mapping[str, int]
    validations: Mapping[str, int] = {}
    resolver_failures: Mapping[str, int] = {}


@dataclass(frozen=True)
class HistoricalJob:
    """Features of the rows of a file.

    Attributes:
        scan: The plan and its sources.
        entities: Rows with the primary key under its feature name, ``event_time`` (UTC), and
            anything else, which is carried along.
        choice: Who computes.
    """

    scan: SourceScan
    entities: Path
    choice: EngineChoice

    @classmethod
    def prepare(
        cls,
        definitions: str,
        feature_set: str,
        sources: Mapping[str, Path],
        entities: Path,
        engine: EngineName = "auto",
    ) -> HistoricalJob:
        """Bind the definitions, check the sources and choose the engine; rows are not read yet.

        Args:
            definitions: An import path, a ``.py`` file, or an entry point of ``sunloom.features``.
            feature_set: Namespace of a features class.
            sources: Namespace to the file or folder with its rows.
            entities: The rows' file.
            engine: ``polars`` in this process, ``ray`` on the connected cluster, ``auto`` in this
                process if it has the memory.
        """
        scan = open_scan(plan_of(definitions, feature_set), sources)
        rows = _estimated_rows(entities) if engine == "auto" else 0
        return cls(scan, entities, choose_engine(scan, rows, engine))

    @property
    def needs_cluster(self) -> bool:
        """Whether Ray computes."""
        return self.choice.engine == "ray"

    def run(self, out: Path, max_bad_share: float = MAX_BAD_SHARE) -> HistoricalSummary:
        """Compute and write the rows.

        Args:
            out: A Parquet file. Source rows that cannot be read go beside it, as
                ``<out>.quarantine.jsonl``.
            max_bad_share: Share of such rows above which nothing is written.

        Raises:
            DataQualityError: Too many source rows cannot be read.
            ClusterError: The Ray engine computes, and no cluster is connected.
        """
        result = compute_historical(self.scan, read_table(self.entities).rows, self.choice)
        quarantine = out.with_name(out.name + ".quarantine.jsonl")
        counts = quarantine_damaged(result.damaged, result.rows_read, quarantine, max_bad_share)
        with atomic_path(out) as partial:
            result.table.write_parquet(partial)
        return HistoricalSummary(
            rows=result.table.height,
            features=self.scan.plan.outputs,
            engine=self.choice.engine,
            why=self.choice.why,
            out=str(out),
            quarantined=counts,
            **result.counters.log_and_count(),
        )


def compute_historical(
    scan: SourceScan,
    entities: pl.DataFrame,
    choice: EngineChoice,
    partitions: int = DEFAULT_PARTITIONS,
) -> HistoricalResult:
    """Compute by the chosen engine.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row, and what is carried along.
        choice: Who computes; ``ray`` needs a connected cluster.
        partitions: Partitions on the cluster at least.
    """
    if choice.engine == "polars":
        return historical_polars(scan, entities)
    return historical_ray(scan, entities, partitions)


def _estimated_rows(entities: Path) -> int:
    """A Parquet file says how many rows it has; another kind counts as one row for 32 bytes."""
    return sum(
        int(pl.scan_parquet(file).select(pl.len()).collect().item())
        if file.suffix == ".parquet"
        else file.stat().st_size // _TEXT_ROW_BYTES
        for file in data_files(entities)
    )
