"""The recipe of a feature set: where rows come from, and what is materialised."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from sunloom.config.data.sources import BatchSource, DatasetSource, FilesSource
from sunloom.config.data.validation import ValidationConfig
from sunloom.config.feature_store import StoresConfig
from sunloom.config.features.chalk import ChalkConfig
from sunloom.config.features.streaming import KafkaSource
from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.preprocessing.transformations import FeatureTransformations, PreparedConfig
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError


class FeatureStoreConfig(StoresConfig):
    """Where feature values come from and where they are kept."""

    batch_source: BatchSource
    """Rows for training and for the online store."""
    ttl: Duration | None = None
    """How long a record of the online store holds after its feature time, such as ``30d``; then
    the entity is not found. For ever when empty."""
    streaming_source: KafkaSource | None = None
    """Events as they happen, for ``features stream``."""


class TrainingSetConfig(Model):
    """Point-in-time rows for training."""

    dataset: str
    """A labelled data set plugin: says which entities there are and what happened after."""
    cutoffs: tuple[date, ...] = Field(min_length=1)
    """As-of times (midnight UTC) of the rows, one file each."""


class OnlineConfig(Model):
    """Latest values for the online store."""

    as_of: AwareDatetime
    """The time as of which values are computed."""
    entities: Path | None = None
    """A file with the entities' keys under their feature name. When empty: those of the training
    data set, else every key that the sources have by that time."""


class BackfillConfig(Model):
    """A range of time over which values are computed, chunk by chunk."""

    start: AwareDatetime
    """First as-of time."""
    end: AwareDatetime
    """The end of the range, not in it."""
    every: Duration | None = None
    """Between as-of times, such as ``1d``; without it the entities' own
    ``event_time`` counts."""
    entities: Path | None = None
    """A file with the entities' keys, and ``event_time`` where ``every`` is empty. Without it,
    every key that the sources have by the as-of time."""
    chunk: Duration | None = None
    """Length of a chunk, the unit that is written at once; a sixteenth of the range when empty."""
    into_store: bool = False
    """Whether the rows become the offline store's of their days (UTC), a version each chunk. The
    range then starts at midnight UTC and chunks are whole days."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end} is not after start {self.start}")
        if self.every is None and self.entities is None:
            raise ValueError("every is missing, or entities with their own event_time")
        return self


class ExecutionConfig(Model):
    """How the work runs."""

    engine: Literal["auto", "polars", "ray", "chalk"] = "auto"
    """Who computes: this process, the cluster, this process if everything fits into memory, or
    the Chalk environment that ``chalk`` names."""
    partitions: int = Field(default=4, ge=1)
    """Partitions by key hash on the cluster at least; more where the sources are large."""
    compare_engines: bool = True
    """Whether the training rows are also computed through Ray Data and compared."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of unreadable source rows above which the run stops."""


class FeaturesRecipe(Settings):
    """Materialise one feature set: training rows and online values."""

    definitions: str
    """An entry point of group ``sunloom.features``, an import path, or a ``.py`` file."""
    feature_set: str
    """Namespace of a features class."""
    feature_store: FeatureStoreConfig
    """Sources of rows."""
    training: TrainingSetConfig | None = None
    """Training rows, if any."""
    online: OnlineConfig | None = None
    """Online values, if any."""
    backfill: BackfillConfig | None = None
    """A range of time for ``features backfill``."""
    execution: ExecutionConfig = ExecutionConfig()
    """Engines and thresholds."""
    validation: ValidationConfig | None = None
    """Quality rules of rows; a batch that breaks them is not materialised."""
    transformations: FeatureTransformations | None = None
    """How features are prepared for models: the short form or a list of steps, fitted on training
    rows, or a fitted ``artifact``. What comes out is a set of its own."""
    prepared: PreparedConfig = PreparedConfig()
    """The prepared set: name, rows learnt from, registry."""
    chalk: ChalkConfig | None = None
    """The Chalk environment that computes the set where ``execution.engine`` is ``chalk``."""

    @model_validator(mode="after")
    def _chalk_is_named(self) -> Self:
        if self.execution.engine == "chalk" and self.chalk is None:
            raise ValueError("execution.engine is chalk: name the environment under chalk")
        return self

    def features_folder(self) -> Path:
        """The folder of training rows."""
        return self.paths.outputs / "features" / self.feature_set

    def kafka_source(self) -> KafkaSource:
        """Where events come from.

        Raises:
            ConfigError: The recipe names no such place.
        """
        source = self.feature_store.streaming_source
        if source is None:
            raise ConfigError(
                "The recipe has no feature_store.streaming_source.",
                "Name brokers and topics there, as conf/README.md lists them.",
                "feature_store.streaming_source",
            )
        return source

    def source_paths(self) -> dict[str, Path]:
        """Namespace to the file or folder with its rows; a database's after ``fetch_sources``."""
        source = self.feature_store.batch_source
        if isinstance(source, FilesSource):
            return dict(source.tables)
        if not isinstance(source, DatasetSource):
            return {name: self.features_folder() / "sources" / name for name in source.tables}
        folder = self.paths.outputs / "data" / source.dataset
        return {name: _table_path(folder, table) for name, table in source.tables.items()}

    def moments(self) -> list[datetime]:
        """The cut-offs as as-of times."""
        days = self.training.cutoffs if self.training else ()
        return [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]


def _table_path(folder: Path, table: str) -> Path:
    # Cleaned tables are folders of parts, derived ones single files.
    single = folder / f"{table}.parquet"
    return single if single.is_file() else folder / table
