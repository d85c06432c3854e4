"""Where trackers send the progress of runs."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from sunloom.config.loading.model import Model

_SERVER_OR_DATABASE = re.compile(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://|databricks")


class MlflowConfig(Model):
    """The tracker ``mlflow``."""

    uri: SecretStr | None = None
    """Tracking server (``https://…``) or database (``sqlite:////…``, ``postgresql://…``), which all
    workers reach; empty is ``mlflow.db`` in the state folder."""
    experiment: str = "sunloom"
    """Experiment that gets the runs; it is made where it does not exist."""

    @field_validator("uri")
    @classmethod
    def _is_no_folder(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _SERVER_OR_DATABASE.match(value.get_secret_value()):
            # MLflow has given up its file store, and would refuse in the first worker.
            raise ValueError(
                "must be a server or a database, such as https://… or sqlite:////folder/mlflow.db: "
                "MLflow no longer writes to plain folders"
            )
        return value


class WandbConfig(Model):
    """The tracker ``wandb`` (Weights & Biases)."""

    mode: Literal["offline", "online"] = "offline"
    """``offline`` writes to the run's folder, from where ``wandb sync`` sends it; ``online`` sends
    to wandb.ai, or to the server that ``WANDB_BASE_URL`` names."""
    project: str = Field(default="sunloom", min_length=1)
    """Project that gets the runs."""


class TrackingConfig(Model):
    """Where trackers send the progress of runs."""

    mlflow: MlflowConfig = MlflowConfig()
    """The tracker ``mlflow``."""
    wandb: WandbConfig = WandbConfig()
    """The tracker ``wandb``."""
