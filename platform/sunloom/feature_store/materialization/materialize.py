"""Materialisation of a feature set: training rows at cut-offs, latest values into the stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from sunloom.config.data import ValidationConfig
from sunloom.config.features import ChalkConfig, FeaturesRecipe
from sunloom.core.plugins import load_plugin
from sunloom.core.telemetry import get_logger
from sunloom.data.datasets import GROUP, LabelledDataSet, open_tables
from sunloom.data.sources.databases import fetch_sources
from sunloom.errors import UsageError
from sunloom.feature_store.materialization.preprocessed import (
    PreparationArtifact,
    PreparedSet,
    open_prepared_set,
    write_cutoffs,
)
from sunloom.feature_store.online.request_checks import store_rules
from sunloom.feature_store.online.staleness import is_expiry_column, with_expiry
from sunloom.feature_store.quality_gate import QualityGate, open_quality_gate
from sunloom.feature_store.stores.offline_store import OfflineStore, open_offline_store
from sunloom.feature_store.stores.online.key_value import PLANS
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import outline_of, plan_of_recipe
from sunloom.features.engine.counters import Counters
from sunloom.features.historical.chalk_query import historical_chalk
from sunloom.features.historical.compare import EngineComparison, compare_with_ray_data
from sunloom.features.historical.query import ReadRows, quarantine_damaged
from sunloom.features.historical.retrieve import (
    EngineChoice,
    choose_engine,
    compute_historical,
    historical_polars,
)
from sunloom.features.plan.feature_sets import EVENT_TIME, Plan
from sunloom.features.sources.scan import SourceScan, known_entities, open_scan
from sunloom.features.sources.typed_rows import TypedRows, damaged_frame, read_source

_log = get_logger("features.materialize")


class MaterializationResult(BaseModel, frozen=True):
    """What a materialisation wrote; what does not apply is unset.

    Attributes:
        training_rows: Rows at all cut-offs.
        online_entities: Entities in the online store.
        engines_equal: Whether the training rows through Ray Data are those of the chosen engine;
            None where they were not compared.
        offline_version: The offline store's version that holds all of the rows.
        validations: Feature to number of values outside its limits.
        resolver_failures: Resolver to number of failed calls.
        repeated_ids: Class to source rows with the id of an earlier event, which count again.
        deduplicated: Class to source rows that were left out as repeats.
        quarantined: Reason to number of rows, of sources and entities, that could not be read.
        unavailable: Feature that could not be bound to place and reason; unset where all could.
        prepared_by: The fitted pipeline: a folder or ``name@version``.
        prepared_set: Name of the prepared set.
        prepared_rows: Its training rows.
        prepared_entities: Its entities in the online store.
    """

    training_rows: int
    online_entities: int
    engines_equal: bool | None
    offline_version: int | None = None
    validations: Mapping[str, int] = {}
    resolver_failures: Mapping[str, int] = {}
    repeated_ids: Mapping[str, int] = {}
    deduplicated: Mapping[str, int] = {}
    quarantined: Mapping[str, int] = {}
    unavailable: Mapping[str, str] = {}
    prepared_by: str | None = None
    prepared_set: str | None = None
    prepared_rows: int | None = None
    prepared_entities: int | None = None


@dataclass(frozen=True)
class TrainingSource:
    """Entities and labels of training rows.

    Attributes:
        dataset: Says which entities there are at a cut-off, and what happened after.
        tables: The data set's tables.
        cutoffs: As-of times of the rows.
    """

    dataset: LabelledDataSet
    tables: Mapping[str, pl.LazyFrame]
    cutoffs: Sequence[datetime]

    def entities(self) -> pl.DataFrame:
        """Key and event time of the entities at every cut-off."""
        return pl.concat([self.entities_at(cutoff) for cutoff in self.cutoffs])

    def entities_at(self, as_of: datetime) -> pl.DataFrame:
        """Key and event time of the entities that are known by then."""
        return self.dataset.entities(self.tables, as_of)

    def with_label(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, and what happened after each."""
        return rows.with_columns(self.dataset.outcomes(self.tables, rows))


@dataclass(frozen=True)
class OnlineTarget:
    """The latest values and where they go.

    Attributes:
        store: The online store.
        plan: What online reads compute; stored beside the records.
        scan: The same, with the end of each value's life where it may grow stale.
        as_of: The time as of which values are computed.
        entities: A file with the entities' keys; without it the training's, else the sources'.
        ttl: How long a record holds.
        rules: Quality rules that requests are judged by.
    """

    store: OnlineStore
    plan: Plan
    scan: SourceScan
    as_of: datetime
    entities: Path | None
    ttl: timedelta | None
    rules: ValidationConfig | None

    def write(self, rows: pl.DataFrame) -> None:
        """Write the values with their plan and rules."""
        name, store = self.plan.feature_set, self.store
        # Before the write: rows that an earlier, shorter time to live has ended would be dropped.
        if name in store.feature_sets():
            store.set_ttl(name, self.ttl)
        store.write(name, rows, key=self.plan.root.key, time=EVENT_TIME)
        store.set_ttl(name, self.ttl)
        store.apply([(PLANS, name.encode(), self.plan.model_dump_json().encode())])
        store_rules(store, name, self.rules, self.plan)

    def count(self) -> int:
        """Number of entities with a record that holds."""
        return self.store.count(self.plan.feature_set)


@dataclass(frozen=True)
class MaterializationJob:
    """One feature set's materialisation: all that the work needs, read once from the recipe.

    Attributes:
        scan: The plan and its sources.
        engine: Who computes, this platform's engines or Chalk.
        partitions: Partitions on the cluster at least.
        folder: Where training rows, quarantine and quality reports go.
        max_bad_share: Share of unreadable source rows above which the run stops.
        compare: Whether the training rows are also computed through Ray Data and compared.
        offline: The offline store.
        gate: Rules that every batch must pass, if there are any.
        training: Entities and labels of the training rows, if any are wanted.
        online: The latest values, if any are wanted.
        prepared: The prepared set, if there is one.
    """

    scan: SourceScan
    engine: EngineChoice | ChalkConfig
    partitions: int
    folder: Path
    max_bad_share: float
    compare: bool
    offline: OfflineStore
    gate: QualityGate | None
    training: TrainingSource | None
    online: OnlineTarget | None
    prepared: PreparedSet | None

    @classmethod
    def prepare(cls, recipe: FeaturesRecipe) -> MaterializationJob:
        """Read the recipe: fetch the sources, bind the definitions, open stores, choose the engine.

        Raises:
            DataError: A database cannot be reached or refuses.
            DefinitionError: The definitions cannot be bound.
            NotFoundError: There is no such feature set, plugin or artifact.
            UsageError: Rows that an aggregate or a join needs have no source.
        """
        execution, folder, paths = recipe.execution, recipe.features_folder(), recipe.source_paths()
        cutoffs = recipe.as_of_times()
        fetch_sources(recipe.feature_store.batch_source, paths)
        if execution.engine == "chalk":
            assert recipe.chalk is not None
            # Chalk may compute what cannot be bound here: names and types are enough.
            plan = outline_of(
                recipe.definitions, recipe.feature_set, strict=recipe.execution.strict
            )
            scan = SourceScan(plan, paths)
            engine: EngineChoice | ChalkConfig = recipe.chalk
        else:
            plan = plan_of_recipe(recipe)
            scan = open_scan(plan, paths, recipe.feature_store.batch_source.deduplicate)
            engine = choose_engine(scan, wanted=execution.engine)
        training = online = None
        if recipe.training is not None:
            name = recipe.training.dataset
            dataset: LabelledDataSet = load_plugin(GROUP, name, LabelledDataSet)
            tables = open_tables(recipe.paths.outputs / "data" / name)
            training = TrainingSource(dataset, tables, cutoffs)
        if recipe.online is not None:
            served = plan.for_online()
            online = OnlineTarget(
                store=open_online_store(recipe),
                plan=served,
                scan=SourceScan(with_expiry(served), paths, scan.deduplicate),
                as_of=recipe.online.as_of,
                entities=recipe.online.entities,
                ttl=recipe.feature_store.ttl,
                rules=recipe.validation,
            )
        return cls(
            scan=scan,
            engine=engine,
            partitions=execution.partitions,
            folder=folder,
            max_bad_share=execution.max_bad_share,
            compare=execution.compare_engines and execution.engine != "chalk",
            offline=open_offline_store(recipe),
            gate=open_quality_gate(recipe, plan),
            training=training,
            online=online,
            prepared=open_prepared_set(recipe, plan.root.key, cutoffs),
        )

    @property
    def needs_cluster(self) -> bool:
        """Whether Ray computes or is compared with."""
        if isinstance(self.engine, ChalkConfig):
            return False
        return self.engine.engine == "ray" or (self.compare and self.training is not None)

    def run(self) -> MaterializationResult:
        """Compute, judge and write.

        Raises:
            DataQualityError: Rules refuse a batch, or too many rows cannot be read.
            ClusterError: Ray computes, and no cluster is connected.
        """
        counters = Counters()
        # Both computations read the same sources: the counts of one replace the other's.
        quarantined: dict[str, int] = {}
        entities = training = latest = None
        artifact = None if self.prepared is None else self.prepared.artifact
        if self.training is not None:
            entities = self.training.entities()
            training = self._compute(self.scan, entities, counters, quarantined)
            artifact = self._write_training(self.training, training)
        if self.online is not None:
            keys = self._latest_keys(self.online)
            as_of = pl.lit(self.online.as_of).cast(pl.Datetime("us", "UTC"))
            values = self._compute(
                self.online.scan,
                keys.rows.with_columns(as_of.alias(EVENT_TIME)),
                counters,
                quarantined,
                damaged_entities=keys.damaged,
            )
            self._admit(values, "online")
            self.online.write(values)
            # Only records hold the end of each value's life beside it.
            latest = values.drop(name for name in values.columns if is_expiry_column(name))
            if self.prepared is not None:
                artifact = self.prepared.write_latest(self.online.store, latest, artifact)
        batches = [rows for rows in (training, latest) if rows is not None]
        # What does not apply stays unset, and so out of the printed result.
        optional: dict[str, Any] = {"quarantined": quarantined} if quarantined else {}
        if batches:
            optional["offline_version"] = self._write_offline(batches)
        if artifact is not None:
            optional["prepared_by"] = artifact.reference
        if self.prepared is not None and batches:
            optional["prepared_set"] = self.prepared.name
        if self.prepared is not None and training is not None:
            optional["prepared_rows"] = training.height
        if self.prepared is not None and latest is not None:
            optional["prepared_entities"] = latest.height
        equal = None
        if self.compare and entities is not None and training is not None:
            equal = compare_with_ray_data(self.scan, entities, training, self.partitions).equal
        return MaterializationResult(
            training_rows=0 if training is None else training.height,
            online_entities=0 if self.online is None else self.online.count(),
            engines_equal=equal,
            **counters.log_and_count(),
            **self.scan.plan.unavailable_summary,
            **optional,
        )

    def _compute(
        self,
        scan: SourceScan,
        entities: pl.DataFrame,
        counters: Counters,
        quarantined: dict[str, int],
        *,
        damaged_entities: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        read: list[ReadRows] = []
        if damaged_entities is not None:
            count = entities.height + damaged_entities.height
            read.append(ReadRows("entities' rows", damaged_entities, count))
        if isinstance(self.engine, ChalkConfig):
            table = historical_chalk(self.engine, scan.plan, entities).table
        else:
            _log.info("computed by %s: %s", self.engine.engine, self.engine.why)
            result = compute_historical(scan, entities, self.engine, self.partitions)
            table = result.table
            read.append(result.source_rows)
            counters.add_computation(result.counters)
        quarantine = self.folder / "quarantine.jsonl"
        quarantined.update(quarantine_damaged(read, quarantine, self.max_bad_share))
        return table

    def _latest_keys(self, online: OnlineTarget) -> TypedRows:
        """The entities' keys, once each; rows of a file that name none are damaged."""
        root = self.scan.plan.root
        if online.entities is not None:
            # In the key's declared type: no value of the file decides what the others are.
            keys = read_source(root, [root.key], online.entities, required=[root.key])
            return replace(keys, rows=keys.rows.unique(maintain_order=True))
        if self.training is not None:
            rows = self.training.entities_at(online.as_of)
        else:
            rows = known_entities(self.scan, online.as_of)
        return TypedRows(rows, damaged_frame([]))

    def _write_training(
        self, source: TrainingSource, rows: pl.DataFrame
    ) -> PreparationArtifact | None:
        labelled = source.with_label(rows)
        self._admit(labelled, "training")
        write_cutoffs(labelled, source.cutoffs, self.folder)
        if self.prepared is None:
            return None
        return self.prepared.write_training_rows(labelled, source.dataset.label, source.cutoffs)

    def _admit(self, rows: pl.DataFrame, name: str) -> None:
        if self.gate is not None:
            self.gate.admit(rows, name, self.folder)

    def _write_offline(self, batches: Sequence[pl.DataFrame]) -> int:
        """One version with all rows; those of a day take the place of an earlier run's."""
        plan = self.scan.plan
        names = {"key": plan.root.key, "time": EVENT_TIME}
        rows = pl.concat(batches, how="diagonal").unique(
            list(names.values()), keep="last", maintain_order=True
        )
        return self.offline.write(plan.feature_set, rows, mode="dates", **names).number


def materialize(recipe: FeaturesRecipe) -> MaterializationResult:
    """Materialise where a cluster is connected already, or none is needed."""
    return MaterializationJob.prepare(recipe).run()


def compare_engines(recipe: FeaturesRecipe) -> EngineComparison:
    """Compute the training rows with both engines; nothing is written.

    Args:
        recipe: With ``training``, and an engine of this platform.

    Raises:
        UsageError: The recipe has no training rows, or Chalk computes them.
        ClusterError: No cluster is connected.
    """
    job = MaterializationJob.prepare(recipe)
    if job.training is None or recipe.execution.engine == "chalk":
        raise UsageError(
            "Engines are compared on training rows that this platform computes.",
            "Name the labelled data set under training, and another execution.engine than chalk.",
            "training",
        )
    entities = job.training.entities()
    rows = historical_polars(job.scan, entities).table
    return compare_with_ray_data(job.scan, entities, rows, job.partitions)
