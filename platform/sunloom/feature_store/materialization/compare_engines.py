"""The comparison of a recipe's training rows through Polars and through Ray Data."""

from __future__ import annotations

from sunloom.config.features import FeaturesRecipe
from sunloom.errors import UsageError
from sunloom.feature_store.materialization.materialize import MaterializationJob
from sunloom.features.historical.compare import EngineComparison, compare_with_ray_data
from sunloom.features.historical.retrieve import historical_polars


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
