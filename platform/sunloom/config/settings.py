"""What every part of the platform reads; each recipe class extends it."""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, SecretStr, field_validator

from sunloom.config.alerts import WebhookConfig
from sunloom.config.feature_store import StoresConfig
from sunloom.config.loading.model import Model
from sunloom.config.serving import ServingConfig
from sunloom.config.tracking import TrackingConfig


class Paths(Model):
    """Where runs write; relative paths lie below ``SUNLOOM_HOME``, else the working directory.

    They become absolute at once: Ray's workers and jobs have other working directories.
    """

    # The defaults become absolute too.
    model_config = ConfigDict(validate_default=True)

    state: Path = Path(".sunloom")
    """Database, artifacts, online store and process records."""
    outputs: Path = Path("outputs")
    """Tables, reports, plots and run folders."""

    @field_validator("state", "outputs")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return (Path(os.environ.get("SUNLOOM_HOME", ".")) / value.expanduser()).absolute()


class DatabaseConfig(Model):
    """The relational database: keys, registry, agents, alerts."""

    url: SecretStr | None = None
    """SQLAlchemy URL, such as ``postgresql+psycopg://user:…@host/db``; SQLite in the state
    folder when empty."""
    pool_size: int = Field(default=5, ge=1)
    """Connections a process keeps open (PostgreSQL)."""


class ArtifactsConfig(Model):
    """Where models and other artifacts lie."""

    uri: str | None = None
    """A folder or an fsspec URI (``s3://…``, ``gs://…``); the state folder when empty."""


class ClusterConfig(Model):
    """Which Ray cluster runs the work."""

    address: str | None = None
    """``auto`` or ``host:port`` of a running cluster; empty starts a private local one."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of the private cluster; the machine's cores when empty."""
    # Ray refuses an object store of less than 75 MiB.
    object_store_bytes: int = Field(default=400_000_000, ge=80_000_000)
    """Object store of the private cluster, bytes."""
    dashboard: bool = True
    """Whether the private cluster starts a dashboard (needed for jobs and by ``/llm/train``)."""
    dashboard_host: str = "127.0.0.1"
    """Interface of the dashboard."""
    # Not Ray's 8265: another cluster of this machine may have it.
    dashboard_port: int = Field(default=0, ge=0, le=65535)
    """Port of the private cluster's dashboard; 0 picks a free one."""
    job_address: str | None = None
    """Job server, such as ``http://127.0.0.1:8265``; the connected cluster's when empty."""


class TelemetryConfig(Model):
    """Logs and alerts of our own; nothing leaves the machine unless a sink says so."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_format: Literal["text", "json"] = "text"
    """``json`` writes one object a line."""
    alert_sinks: tuple[str, ...] = ("log",)
    """Names of alert sinks, built in (``log``, ``webhook``, ``slack``) or from entry points."""
    webhook: WebhookConfig | None = None
    """Where the sink ``webhook`` posts alerts as JSON."""
    slack: WebhookConfig | None = None
    """Where the sink ``slack`` posts alerts in the form of Slack's incoming webhooks."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the trackers of a recipe send a run's progress."""


class Settings(Model):
    """The platform's settings."""

    environment: Literal["development", "test", "staging", "production"] = "development"
    """Chooses ``conf/env/<environment>.yaml``; ``development`` makes a first key on start."""
    seed: int = 0
    """Seed of every random choice in a run."""
    # A factory: SUNLOOM_HOME and the working directory count at loading, not at import.
    paths: Paths = Field(default_factory=Paths)
    """Folders that runs write to."""
    database: DatabaseConfig = DatabaseConfig()
    """The relational database."""
    artifacts: ArtifactsConfig = ArtifactsConfig()
    """The artifact store."""
    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Logs and alerts."""
    serving: ServingConfig = ServingConfig()
    """The gateway and the apps behind it."""
    feature_store: StoresConfig = StoresConfig()
    """Where feature values are kept."""

    @classmethod
    def keys_of_all_kinds(cls) -> frozenset[str]:
        """Top-level keys of the settings and of every kind of recipe."""
        return _all_recipe_keys()

    def database_url(self) -> str:
        """The SQLAlchemy URL in clear; SQLite in the state folder by default."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{(self.paths.state / 'sunloom.db').absolute()}"

    def artifacts_uri(self) -> str:
        """The artifact store's folder or URI."""
        return self.artifacts.uri or str((self.paths.state / "artifacts").absolute())


@cache
def _all_recipe_keys() -> frozenset[str]:
    # A recipe class is known once its module is imported, so every schema module is.
    for module in pkgutil.walk_packages([str(Path(__file__).parent)], "sunloom.config."):
        importlib.import_module(module.name)
    kinds: list[type[Settings]] = [Settings, *_subclasses(Settings)]
    return frozenset(name for kind in kinds for name in kind.model_fields)


def _subclasses(kind: type[Settings]) -> list[type[Settings]]:
    return [deep for sub in kind.__subclasses__() for deep in (sub, *_subclasses(sub))]
