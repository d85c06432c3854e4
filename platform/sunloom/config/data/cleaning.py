"""The recipe of a data set's preparation."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings


class QualityConfig(Model):
    """How many bad rows a data set may have."""

    max_bad_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of quarantined rows above which the run stops; the quarantine file is kept."""


class CleaningConfig(Model):
    """How the work is partitioned."""

    blocks: int = Field(default=4, ge=1)
    """Blocks that Ray Data works on; rows that might duplicate each other meet in one."""


class DataRecipe(Settings):
    """Prepare one data set: parse, check, quarantine, write Parquet."""

    dataset: str
    """Name of a data set plugin (entry point group ``sunloom.datasets``)."""
    quality: QualityConfig = QualityConfig()
    """Threshold of bad rows."""
    preparation: CleaningConfig = CleaningConfig()
    """Partitioning of the work."""

    def data_folder(self) -> Path:
        """Folder of the prepared tables."""
        return self.paths.outputs / "data" / self.dataset
