"""Point-in-time features for rows: exactly one output row for each input row, in order.

This process computes where everything fits into memory, else the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel

from sunloom.config.data import Deduplication
from sunloom.core.files import atomic_path
from sunloom.data.sources.table_files import data_files
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.counters import Counters, count_violations
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.historical.cluster import DEFAULT_PARTITIONS, historical_ray
from sunloom.features.historical.query import (
    HistoricalResult,
    append_features,
    build_query_frame,
    entity_rows,
    quarantine_damaged,
    read_entities,
)
from sunloom.features.sources.scan import SourceScan, open_scan

EngineName = Literal["auto", "polars", "ray"]

MAX_BAD_SHARE = 0.01
_TEXT_ROW_BYTES = 32
# Measured at 10M events: reading, sorting and running sums hold the needed columns some 4 times,
# and a query row with every output stands in memory some 3 times.
_SOURCE_COPIES = 5
_ROW_COPIES = 3
_VALUE_BYTES = 8
# Other processes need memory too.
_SHARE = 0.6
_CGROUP = Path("/sys/fs/cgroup")


class HistoricalSummary(BaseModel, frozen=True):
    """What was computed, and where it was written.

    Attributes:
        rows: Rows written.
        features: Names of the features.
        engine: Who computed.
        why: Why that engine.
        out: The Parquet file.
        quarantined: Reason to number of rows, of sources and entities, that could not be read.
        validations: Feature to number of values outside its limits; unset where there are none.
        resolver_failures: Function to number of failed calls; unset where there are none.
        repeated_ids: Class to rows with the id of an earlier event, which count again; unset where
            there are none.
        deduplicated: Class to repeated rows that were left out; unset where there are none.
        unavailable: Feature that could not be bound to place and reason; unset where all could.
    """

    rows: int
    features: tuple[str, ...]
    engine: str
    why: str
    out: str
    quarantined: Mapping[str, int]
    validations: Mapping[str, int] = {}
    resolver_failures: Mapping[str, int] = {}
    repeated_ids: Mapping[str, int] = {}
    deduplicated: Mapping[str, int] = {}
    unavailable: Mapping[str, str] = {}


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
        deduplicate: Mapping[str, Deduplication] | None = None,
        *,
        strict: bool = False,
    ) -> HistoricalJob:
        """Bind the definitions, check the sources and choose the engine; rows are not read yet.

        Args:
            definitions: An import path, a ``.py`` file, or an entry point of ``sunloom.features``.
            feature_set: Namespace of a features class.
            sources: Namespace to the file or folder with its rows.
            entities: The rows' file.
            engine: ``polars`` in this process, ``ray`` on the connected cluster, ``auto`` in this
                process if it has the memory.
            deduplicate: Namespace to which of its repeated rows is read.
            strict: Refuse definitions of which anything cannot be bound.
        """
        plan = plan_of(definitions, feature_set, strict=strict)
        scan = open_scan(plan, sources, deduplicate)
        rows = _estimated_rows(entities) if engine == "auto" else 0
        return cls(scan, entities, choose_engine(scan, rows, engine))

    @property
    def needs_cluster(self) -> bool:
        """Whether Ray computes."""
        return self.choice.engine == "ray"

    def run(self, out: Path, max_bad_share: float = MAX_BAD_SHARE) -> HistoricalSummary:
        """Compute and write the rows.

        Args:
            out: A Parquet file. Rows of the sources and of the entities' file that cannot be read
                go beside it, as ``<out>.quarantine.jsonl``.
            max_bad_share: Share of such rows, of either, above which nothing is written.

        Raises:
            DataQualityError: Too many rows cannot be read.
            ClusterError: The Ray engine computes, and no cluster is connected.
        """
        plan, paths = self.scan.plan, self.scan.paths
        entities = read_entities(self.entities, plan, has_source=plan.namespace in paths)
        result = compute_historical(self.scan, entities.rows, self.choice)
        quarantine = out.with_name(out.name + ".quarantine.jsonl")
        read = (result.source_rows, entity_rows(entities))
        counts = quarantine_damaged(read, quarantine, max_bad_share)
        with atomic_path(out) as partial:
            result.table.write_parquet(partial)
        return HistoricalSummary(
            rows=result.table.height,
            features=self.scan.plan.outputs,
            engine=self.choice.engine,
            why=self.choice.why,
            out=str(out),
            quarantined=counts,
            **self.scan.plan.unavailable_summary,
            **result.counters.log_and_count(),
        )


def _estimated_rows(entities: Path) -> int:
    """A Parquet file says how many rows it has; another kind counts as one row for 32 bytes."""
    return sum(
        int(pl.scan_parquet(file).select(pl.len()).collect().item())
        if file.suffix == ".parquet"
        else file.stat().st_size // _TEXT_ROW_BYTES
        for file in data_files(entities)
    )


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and the reason in words."""

    engine: Literal["polars", "ray"]
    why: str


def choose_engine(
    scan: SourceScan,
    rows: int = 0,
    wanted: EngineName = "auto",
    available_bytes: int | None = None,
) -> EngineChoice:
    """The wanted engine; where that is ``auto``, this process if it has the memory.

    Args:
        scan: The plan and its sources.
        rows: Number of the query's rows.
        wanted: ``auto``, ``polars`` or ``ray``.
        available_bytes: Memory that this process may use; the system's figure by default.
    """
    if wanted != "auto":
        return EngineChoice(wanted, f"engine: {wanted}")
    need = needed_bytes(scan, rows)
    have = int(_SHARE * (available_bytes if available_bytes is not None else _available_bytes()))
    fits = need <= have
    figures = f"about {_size_text(need)} needed, {_size_text(have)} of memory to use"
    return EngineChoice("polars" if fits else "ray", figures)


def needed_bytes(scan: SourceScan, rows: int) -> int:
    """Memory that one process would need, about."""
    columns = len(scan.plan.outputs) + len(scan.plan.root.features)
    return _SOURCE_COPIES * scan.size_bytes + _ROW_COPIES * _VALUE_BYTES * columns * rows


def _available_bytes() -> int:
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        # Outside a container there is no such file, and "max" is no number.
        return free
    return max(0, min(free, limit - used))


def _size_text(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def historical_polars(scan: SourceScan, entities: pl.DataFrame) -> HistoricalResult:
    """Compute in this process.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row, and what is carried along.
    """
    plan = scan.plan
    query = build_query_frame(plan, entities, has_source=plan.namespace in scan.paths)
    sources = scan.read()
    tables = {name: source.rows for name, source in sources.items()}
    engine = FeatureEngine(plan, tables)
    for namespace, source in sources.items():
        counters = Counters(count_violations(plan, namespace, source.rows))
        # A Counter with a zero would be printed as a count.
        counters.repeated_ids += Counter({namespace: source.repeated_ids})
        counters.deduplicated += Counter({namespace: source.deduplicated})
        engine.counters.add(counters)
    damaged = [source.damaged for source in sources.values()]
    return HistoricalResult(
        table=append_features(entities, engine.compute(query)),
        damaged=pl.concat(damaged) if damaged else pl.DataFrame(),
        rows_read=sum(source.rows_read for source in sources.values()),
        counters=engine.counters,
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
