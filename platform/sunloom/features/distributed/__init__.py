"""The same plan on a Ray cluster: rows are cut by key hash, and each part runs the one engine."""

from sunloom.features.distributed.dataset import historical_dataset
from sunloom.features.distributed.run import DEFAULT_PARTITIONS, historical_ray

__all__ = ["DEFAULT_PARTITIONS", "historical_dataset", "historical_ray"]
