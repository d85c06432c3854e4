"""What the gateway shows of quality and performance; read from what the other steps recorded."""

from __future__ import annotations

import json
from typing import Any

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from sunloom.core.telemetry import get_logger


def dataset_summaries(settings: Settings) -> list[dict[str, Any]]:
    """Row counts and quarantine reasons of each data set, from its ``summary.json``."""
    found = []
    for path in sorted((settings.paths.outputs / "data").glob("*/summary.json")):
        try:
            summary = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            get_logger("monitoring").warning("%s cannot be read: %s", path, error)
            continue
        found.append({"dataset": path.parent.name, **summary})
    return found


def model_metrics(settings: Settings) -> list[dict[str, Any]]:
    """Scalar figures of each model's newest version, by name."""
    newest = {version.name: version for version in open_registry(settings).list()}
    return [
        {
            "model": version.ref,
            "kind": version.kind,
            "created_at": version.created_at.isoformat(),
            "metrics": {
                name: value
                for name, value in version.metrics.items()
                if isinstance(value, int | float | str)
            },
        }
        for _, version in sorted(newest.items())
    ]
