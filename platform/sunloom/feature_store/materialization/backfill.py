"""A feature set over a range of time, chunk by chunk, and resumable after whatever ended it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from sunloom.config.features import FeaturesRecipe
from sunloom.core.files import remove_partial
from sunloom.core.telemetry import get_logger
from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.data.sources.databases import fetch_sources
from sunloom.data.sources.table_files import Table, data_files
from sunloom.errors import ConflictError, UsageError
from sunloom.feature_store.materialization.backfill_grid import (
    MANIFEST,
    PARAMETERS,
    Grid,
    build_grid,
    chunk_path,
    publish_json,
    published_rows,
)
from sunloom.feature_store.materialization.backfill_partitions import (
    FilledPartition,
    PartitionTask,
    fill_here,
    fill_on_cluster,
    key_sources,
)
from sunloom.feature_store.quality_gate import QualityGate, open_quality_gate
from sunloom.feature_store.stores.offline_store import OfflineStore, open_offline_store
from sunloom.features.definitions.open import plan_of_recipe
from sunloom.features.engine.counters import Counters
from sunloom.features.historical.cluster import ReadReport
from sunloom.features.historical.query import (
    ReadRows,
    build_query_frame,
    entity_rows,
    quarantine_damaged,
    read_entities,
)
from sunloom.features.historical.retrieve import EngineChoice, choose_engine
from sunloom.features.plan.feature_sets import EVENT_TIME, NOW, Plan
from sunloom.features.sources.scan import SourceScan, open_scan

_STORED = "stored"

_log = get_logger("features.backfill")


class BackfillResult(BaseModel, frozen=True):
    """What a backfill computed and kept; what does not apply is unset.

    Attributes:
        rows: Rows of all chunks.
        chunks: Files in all.
        computed: Files that this run wrote.
        kept: Files that were whole before.
        engine: Who computed.
        why: Why that engine.
        folder: Of the files.
        quarantined: Reason to number of rows, of sources and entities, that could not be read.
        stored: Chunks that this run wrote to the offline store.
        validations: Feature to number of values outside its limits.
        resolver_failures: Resolver to number of failed calls.
        repeated_ids: Class to source rows with the id of an earlier event, which count again.
        deduplicated: Class to source rows that were left out as repeats.
    """

    rows: int
    chunks: int
    computed: int
    kept: int
    engine: str
    why: str
    folder: str
    quarantined: Mapping[str, int]
    stored: int = 0
    validations: Mapping[str, int] = {}
    resolver_failures: Mapping[str, int] = {}
    repeated_ids: Mapping[str, int] = {}
    deduplicated: Mapping[str, int] = {}


@dataclass(frozen=True)
class BackfillParameters:
    """All that decides what the files hold: the folder's name is its hash.

    Attributes:
        feature_set: The feature set.
        plan: The plan's fingerprint.
        grid: As-of times, chunks and partitions.
        sources: Namespace to path, size and time of each file: changed files begin anew.
        polars: Version of Polars, whose hash of keys decides the partitions.
        deduplicate: Namespace to the rule of its source's repeats.
    """

    feature_set: str
    plan: str
    grid: Grid
    sources: Mapping[str, Sequence[tuple[str, int, int]]]
    polars: str
    deduplicate: Mapping[str, Mapping[str, Any]]

    @property
    def digest(self) -> str:
        """The same for the same parameters."""
        parameters = asdict(self)
        if not self.deduplicate:
            # Folders from before there were rules keep their names, and so their finished chunks.
            del parameters["deduplicate"]
        text = json.dumps(parameters, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ChunkFile:
    """A published file in the manifest.

    Attributes:
        file: Path below the backfill's folder.
        rows: Its rows.
    """

    file: str
    rows: int


@dataclass(frozen=True)
class BackfillJob:
    """One backfill: all that the work needs, read once from the recipe.

    Attributes:
        scan: The plan and its sources.
        engine: Who computes.
        parameters: What decides what the files hold.
        folder: Of the backfill's files.
        entities: A file with the entities' keys, and ``event_time`` where the grid has no step.
            Without it, every key of the sources by the as-of time.
        max_bad_share: Share of unreadable source rows above which nothing is computed.
        offline: The offline store, where the rows are to become its rows.
        gate: Rules that rows for the store must pass, if there are any.
    """

    scan: SourceScan
    engine: EngineChoice
    parameters: BackfillParameters
    folder: Path
    entities: Path | None
    max_bad_share: float
    offline: OfflineStore | None
    gate: QualityGate | None

    @classmethod
    def prepare(cls, recipe: FeaturesRecipe) -> BackfillJob:
        """Read the recipe: bind the definitions, fetch the sources, choose the engine.

        The folder's name depends on the plan, the range and the sources: the same recipe goes on
        where it was ended, another or changed sources begin anew. Tables of a database are fetched
        once; remove the fetched files, or materialise, for newer rows.

        Raises:
            UsageError: The recipe has no ``backfill``, Chalk computes, or nothing says which
                entities there are.
        """
        config, wanted = recipe.backfill, recipe.execution.engine
        if config is None:
            raise UsageError(
                "The recipe has no `backfill`, which says the range of time.",
                "Write backfill: {start: …, end: …, every: 1d}, or --start, --end and --every.",
                "backfill",
            )
        if wanted == "chalk":
            raise UsageError(
                "A backfill is computed by this platform's own engines.",
                "Set execution.engine to auto, polars or ray.",
                "execution.engine",
            )
        plan = plan_of_recipe(recipe)
        paths = recipe.source_paths()
        if not all(path.exists() for path in paths.values()):
            fetch_sources(recipe.feature_store.batch_source, paths)
        scan = open_scan(plan, paths, recipe.feature_store.batch_source.deduplicate)
        columns = {name: projection.columns for name, projection in scan.projections.items()}
        if config.entities is None and not key_sources(plan, columns):
            raise UsageError(
                f"No source of {plan.feature_set!r} has its key {plan.root.key!r}.",
                "Name a file with the entities' keys in backfill.entities.",
                "backfill.entities",
            )
        files = paths if config.entities is None else paths | {EVENT_TIME: config.entities}
        parameters = BackfillParameters(
            feature_set=plan.feature_set,
            plan=plan.fingerprint,
            grid=build_grid(config, recipe.execution.partitions),
            sources={name: _identity(path) for name, path in sorted(files.items())},
            polars=pl.__version__,
            deduplicate={name: rule.model_dump() for name, rule in scan.deduplicate.items()},
        )
        return cls(
            scan=scan,
            engine=choose_engine(scan, wanted=wanted),
            parameters=parameters,
            folder=recipe.features_folder() / "backfill" / parameters.digest,
            entities=config.entities,
            max_bad_share=recipe.execution.max_bad_share,
            offline=open_offline_store(recipe) if config.into_store else None,
            gate=open_quality_gate(recipe, plan) if config.into_store else None,
        )

    @property
    def needs_cluster(self) -> bool:
        """Whether Ray computes."""
        return self.engine.engine == "ray"

    def run(self) -> BackfillResult:
        """Compute what is missing; published files are left as they are.

        Raises:
            DataQualityError: Too many source rows cannot be read; nothing is computed then.
            ClusterError: Ray computes, and no cluster is connected.
            ConflictError: A published file was removed meanwhile.
        """
        remove_partial(self.folder)
        publish_json(asdict(self.parameters), self.folder / PARAMETERS)
        quarantined: dict[str, int] = {}
        counters = Counters()

        entities = self._read_entities()

        def check(reports: Sequence[ReadReport]) -> None:
            for report in reports:
                counters.add(report.counters)
            read = [] if entities is None else [entity_rows(entities)]
            quarantined.update(self._quarantine(reports, read))

        filled: Sequence[FilledPartition] = ()
        if tasks := self._tasks(None if entities is None else self._keys(entities.rows)):
            _log.info(
                "%s computes %d partitions: %s", self.engine.engine, len(tasks), self.engine.why
            )
            fill = fill_on_cluster if self.needs_cluster else fill_here
            filled = fill(self.scan, tasks, check)
        files = self._files()
        rows = sum(file.rows for file in files)
        manifest = {"rows": rows, "files": [asdict(file) for file in files]}
        publish_json(asdict(self.parameters) | manifest, self.folder / MANIFEST)
        computed = sum(partition.chunks for partition in filled)
        stored: dict[str, int] = {}
        if self.offline is not None:
            grid, plan = self.parameters.grid, self.scan.plan
            stored["stored"] = _store_chunks(self.offline, self.gate, plan, grid, self.folder)
        return BackfillResult(
            rows=rows,
            chunks=len(files),
            computed=computed,
            kept=len(files) - computed,
            engine=self.engine.engine,
            why=self.engine.why,
            folder=str(self.folder),
            quarantined=quarantined,
            **stored,
            **Counters.merge([counters, *(part.counters for part in filled)]).log_and_count(),
        )

    def _read_entities(self) -> Table | None:
        """The entities' file; None where the entities are those of the sources."""
        if self.entities is None:
            return None
        plan = self.scan.plan
        return read_entities(self.entities, plan, has_source=plan.namespace in self.scan.paths)

    def _tasks(self, keys: Sequence[pl.DataFrame] | None) -> list[PartitionTask]:
        """What each partition still has to do; those with nothing are left out."""
        grid, text = self.parameters.grid, self.scan.plan.model_dump_json()
        tasks = []
        for number in range(grid.partitions):
            missing = [
                span
                for span in grid.spans()
                if published_rows(chunk_path(self.folder, span, number)) is None
            ]
            if missing:
                packet = None if keys is None else to_packet(keys[number])
                tasks.append(
                    PartitionTask(
                        plan_json=text,
                        grid=grid,
                        folder=str(self.folder),
                        partition=number,
                        missing=missing,
                        keys=packet,
                    )
                )
        return tasks

    def _keys(self, rows: pl.DataFrame) -> list[pl.DataFrame]:
        """Each partition's rows of the entities' file."""
        plan, grid = self.scan.plan, self.parameters.grid
        has_source = plan.namespace in self.scan.paths
        if grid.every is None:
            query = build_query_frame(plan, rows, has_source=has_source)
            keys = query.sort(NOW, maintain_order=True)
        else:
            # The file needs no event time; any one will do until the grid's take its place.
            start = pl.lit(grid.start).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
            query = build_query_frame(plan, rows.with_columns(start), has_source=has_source)
            keys = query.drop(NOW).unique(plan.root.key, keep="first", maintain_order=True)
        return list(partition_by_hash(keys, (plan.root.key,), grid.partitions))

    def _quarantine(
        self, reports: Sequence[ReadReport], read: Sequence[ReadRows]
    ) -> dict[str, int]:
        damaged = [from_packet(report.damaged) for report in reports if report.damaged is not None]
        sources = ReadRows(
            "source rows",
            pl.concat(damaged) if damaged else pl.DataFrame(),
            sum(report.rows_read for report in reports),
        )
        path = self.folder / "quarantine.jsonl"
        return quarantine_damaged([sources, *read], path, self.max_bad_share)

    def _files(self) -> list[ChunkFile]:
        files = []
        for span in self.parameters.grid.spans():
            for number in range(self.parameters.grid.partitions):
                path = chunk_path(self.folder, span, number)
                rows = published_rows(path)
                if rows is None:
                    raise ConflictError(f"{path} is gone.", "Run the backfill again.")
                files.append(ChunkFile(str(path.relative_to(self.folder)), rows))
        return files


def backfill(recipe: FeaturesRecipe) -> BackfillResult:
    """Backfill where a cluster is connected already, or none is needed."""
    return BackfillJob.prepare(recipe).run()


def _identity(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of each file: another content has another identity."""
    states = [(file, file.stat()) for file in data_files(path)]
    return [(str(file.absolute()), s.st_size, s.st_mtime_ns) for file, s in states]


def _store_chunks(
    store: OfflineStore, gate: QualityGate | None, plan: Plan, grid: Grid, folder: Path
) -> int:
    """Make each chunk's rows those of its days, a version each; stored chunks are left alone.

    Ended between a write and its mark, the chunk is written once more: its days are replaced by
    the same rows, and nothing is there twice.

    Args:
        store: The offline store.
        gate: Rules that each chunk must pass, if there are any.
        plan: The feature set.
        grid: The chunks.
        folder: Of the backfill.

    Returns:
        Chunks that were stored now.

    Raises:
        DataQualityError: The rules refuse a chunk; those before it are stored.
    """
    stored = 0
    for span in grid.spans():
        mark = folder / _STORED / f"{span.name}.json"
        if mark.is_file():
            continue
        files = [chunk_path(folder, span, number) for number in range(grid.partitions)]
        rows = pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])
        version = None
        if rows.height:
            if gate is not None:
                gate.admit(rows, span.name, folder)
            names = {"key": plan.root.key, "time": EVENT_TIME}
            version = store.write(plan.feature_set, rows, mode="dates", **names).number
            stored += 1
        publish_json({"version": version, "rows": rows.height}, mark)
    return stored
