"""Summaries of data sets and models, read from what preparation and training recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from sunloom.core.telemetry import get_logger


@dataclass(frozen=True)
class DatasetSummary:
    """A data set's ``summary.json``: row counts and reasons of the quarantine."""

    dataset: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class ModelMetrics:
    """Scalar metrics of a model's newest version."""

    model: str
    kind: str
    created_at: str
    metrics: Mapping[str, int | float | str]


def dataset_summaries(settings: Settings) -> list[DatasetSummary]:
    """The summary of each prepared data set; one that cannot be read is left out."""
    summaries = []
    for path in sorted((settings.paths.outputs / "data").glob("*/summary.json")):
        try:
            summaries.append(DatasetSummary(path.parent.name, json.loads(path.read_text())))
        except (OSError, ValueError) as error:
            # One broken file must not hide the figures of the others.
            get_logger("monitoring").warning("%s cannot be read: %s", path, error)
    return summaries


def model_metrics(settings: Settings) -> list[ModelMetrics]:
    """Metrics of each model's newest version, by name."""
    # The registry lists the versions of a name in order: the last one stays.
    newest = {version.name: version for version in open_registry(settings).list()}
    return [
        ModelMetrics(
            model=version.ref,
            kind=version.kind,
            created_at=version.created_at.isoformat(),
            metrics={
                name: value
                for name, value in version.metrics.items()
                if isinstance(value, int | float | str)
            },
        )
        for _, version in sorted(newest.items())
    ]
