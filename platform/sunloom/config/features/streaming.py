"""Streaming sources: where a feature set's events come from as they happen."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, Field, SecretStr, model_validator

from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model


class KafkaSecurity(Model):
    """Encryption and log-in at the brokers."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """Encryption and log-in."""
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

    type: Literal["kafka"] = "kafka"
    brokers: str = Field(min_length=1)
    """``host:port``, several with commas between."""
    topics: dict[str, str] = Field(min_length=1)
    """Namespace of a features class to the topic with its events."""
    group: str | None = None
    """Consumer group; ``sunloom-<feature set>`` when empty."""
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
    ahead: Duration = timedelta(days=1)
    """How far ahead of the clock an event time may be; one further ahead is quarantined."""
    quarantine_topic: str | None = None
    """Topic for messages that cannot be used; a JSON-lines file beside the log when empty."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of messages in quarantine above which the stream stops, once there are a thousand."""
    keep_log: bool = True
    """Whether events are also kept as Parquet under ``<paths.outputs>/features/<set>/log``."""
    security: KafkaSecurity = KafkaSecurity()
    """Encryption and log-in."""

    @property
    def tile_s(self) -> int | None:
        """The tile's width in seconds, if one is given."""
        return None if self.tile is None else max(1, round(self.tile.total_seconds()))
