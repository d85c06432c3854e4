"""The recipe of a feature set: sources, streams, the Chalk environment, what is materialised."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, SecretStr, field_validator, model_validator

from sunloom.config.data import BatchSource, DatasetSource, FilesSource, ValidationConfig
from sunloom.config.feature_store import StoresConfig
from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.preprocessing.transformations import FeatureTransformations, PreparedConfig
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError


class ChalkConfig(Model):
    """A Chalk environment; read where ``execution.engine`` is ``chalk``."""

    project_id: str | None = None
    """Said with every query (``meta``), so that Chalk's logs tell who asked."""
    environment: str
    """The environment's name or id; sent as ``X-Chalk-Env-Id``."""
    api_server: str = Field(default="https://api.chalk.ai", min_length=1)
    """Where credentials are exchanged, and queries go unless Chalk names an engine's address;
    ``https://`` where it names no scheme, as in ``api.chalk.ai``."""
    client_id: SecretStr | None = None
    """A service token's id; ``CHALK_CLIENT_ID`` of the environment when empty."""
    client_secret: SecretStr | None = None
    """Its secret; ``CHALK_CLIENT_SECRET`` of the environment when empty."""
    timeout_s: float = Field(default=120.0, gt=0)
    """The longest wait for one answer."""
    batch_rows: int = Field(default=10_000, ge=1)
    """Rows a query at most."""

    @field_validator("api_server")
    @classmethod
    def _add_scheme(cls, address: str) -> str:
        return address if "://" in address else f"https://{address}"

    def credentials(self) -> tuple[str, str]:
        """The token's id and secret.

        Raises:
            ConfigError: Neither the recipe nor the environment has one of them.
        """
        return (
            _secret("client_id", self.client_id),
            _secret("client_secret", self.client_secret),
        )


def _secret(key: str, written: SecretStr | None) -> str:
    # The variables that Chalk's own client reads.
    variable = f"CHALK_{key.upper()}"
    value = written.get_secret_value() if written is not None else os.environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"chalk.{key} is empty, and the environment variable {variable} is not set.",
            f"export {variable}=…",
            f"chalk.{key}",
        )
    return value


class KafkaSecurity(Model):
    """Encryption and log-in at the brokers."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """Encryption and log-in."""
    # SCRAM proves the password without sending it; PLAIN sends it as it is.
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is sent (``sasl_…``)."""
    username: str | None = None
    """User (``sasl_…``)."""
    password: SecretStr | None = None
    """Password (``sasl_…``); write ``${VARIABLE}``."""
    ca_file: Path | None = None
    """Certificates that are trusted (``…ssl``); the system's when empty."""
    certificate_file: Path | None = None
    """Certificate of this client (``…ssl``), if the brokers ask for one."""
    key_file: Path | None = None
    """Key of that certificate."""
    key_password: SecretStr | None = None
    """Password of that key."""

    @model_validator(mode="after")
    def _check_completeness(self) -> Self:
        login = (self.username, self.password)
        if self.protocol.startswith("sasl") != all(value is not None for value in login):
            raise ValueError("username and password belong to protocol sasl_plaintext or sasl_ssl")
        files = (self.ca_file, self.certificate_file, self.key_file, self.key_password)
        if not self.protocol.endswith("ssl") and any(file is not None for file in files):
            raise ValueError("files of certificates and keys belong to protocol ssl or sasl_ssl")
        return self


class KafkaSource(Model):
    """Events as JSON objects in Kafka topics; one message is one event of a features class.

    To keep the order of events with equal times, a producer must send all events of one entity to
    one partition, as it does when the entity's key is the message's key.
    """

    renamed: ClassVar[Mapping[str, str]] = {"brokers": "bootstrap_servers"}

    type: Literal["kafka"] = "kafka"
    bootstrap_servers: str = Field(min_length=1)
    """Kafka's brokers: ``host:port``, several with commas between."""
    topics: dict[str, str] = Field(default_factory=dict)
    """Namespace of a features class to the topic with its events; a stream needs one at least."""
    group: str | None = None
    """Consumer group; ``sunloom-<feature set>`` when empty."""
    # Kafka's own default, latest, would skip what was sent before the first start.
    start: Literal["earliest", "latest"] = "earliest"
    """Where a partition without a stored offset begins."""
    history: AwareDatetime | None = None
    """The time up to which the batch source has the events: they are merged first, and those of
    the topics up to it are dropped. Without it everything comes from the topics."""
    batch_size: int = Field(default=50_000, ge=1)
    """Maximum number of messages in one transaction."""
    batch_timeout_ms: int = Field(default=500, ge=1)
    """How long a batch waits to fill."""
    answer_timeout_s: float = Field(default=10.0, gt=0)
    """How long the brokers may take to respond before the stream stops, seconds."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000)
    """How long a consumer may be silent before its partitions go to others."""
    tile: Duration | None = None
    """Width of a tile, whole seconds; a thirtieth of the longest window when empty."""
    lateness: Duration = timedelta(days=1)
    """How far behind a partition's latest event an event is not late."""
    late_policy: Literal["accept", "drop"] = "accept"
    """Whether later events are merged or only counted."""
    # One event from a wrong clock would move the watermark, and make every right one late.
    ahead: Duration = timedelta(days=1)
    """How far ahead of the clock an event time may be; one further ahead is quarantined."""
    quarantine_topic: str | None = None
    """Topic for messages that cannot be used; a JSON-lines file beside the log when empty."""
    # Of a thousand messages at least: among fewer, one bad message is a large share.
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of messages in quarantine above which the stream stops, once there are a thousand."""
    keep_log: bool = True
    """Whether events are also kept as Parquet under ``<paths.outputs>/features/<set>/log``."""
    security: KafkaSecurity = KafkaSecurity()
    """Encryption and log-in."""

    @property
    def tile_s(self) -> int | None:
        """The tile's width in seconds, if one is given."""
        # The registry of online sets stores the width in whole seconds.
        return None if self.tile is None else max(1, round(self.tile.total_seconds()))


# A recipe names its sources under the key under which the settings name the stores.
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

    # A time without its zone would be another instant on each machine.
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
    strict: bool = False
    """Whether definitions of which anything cannot be bound are refused, as by ``--strict``; else
    the rest is computed, and what cannot be bound is reported."""


class FeaturesConfig(Settings):
    """Features: sources, Chalk, transformations, validation, and which set is materialised."""

    definitions: str | None = None
    """An entry point of group ``sunloom.features``, an import path, or a ``.py`` file; needed by
    every command on one feature set."""
    feature_set: str | None = None
    """Namespace of a features class; needed by every command on one feature set."""
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


class FeaturesRecipe(FeaturesConfig):
    """The configuration of one feature set."""

    definitions: str
    """An entry point of group ``sunloom.features``, an import path, or a ``.py`` file."""
    feature_set: str
    """Namespace of a features class."""

    def features_folder(self) -> Path:
        """The folder of training rows."""
        return self.paths.outputs / "features" / self.feature_set

    def kafka_source(self) -> KafkaSource:
        """Where events come from.

        Raises:
            ConfigError: The recipe names no such place, or no topic there.
        """
        source = self.feature_store.streaming_source
        if source is None:
            raise ConfigError(
                "The recipe has no feature_store.streaming_source.",
                "Name bootstrap_servers and topics there, as conf/README.md lists them.",
                "feature_store.streaming_source",
            )
        if not source.topics:
            raise ConfigError(
                "The recipe has no feature_store.streaming_source.topics.",
                "Name the topic of each class whose events are streamed: topics: {CLASS: TOPIC}.",
                "feature_store.streaming_source.topics",
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

    def as_of_times(self) -> list[datetime]:
        """The cut-offs as as-of times."""
        days = self.training.cutoffs if self.training else ()
        return [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]


def _table_path(folder: Path, table: str) -> Path:
    # Cleaned tables are folders of parts, derived ones single files.
    single = folder / f"{table}.parquet"
    return single if single.is_file() else folder / table
