"""Ray Train's trainer with the processes that a run needs, and no others."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from sunloom.core.cluster import is_cluster_private


class LeanTorchTrainer(TorchTrainer):
    """A ``TorchTrainer`` whose workers read their rows from a file.

    Ray starts a process for each service of a run, and each spends seconds on its imports: one
    deals data sets out, another removes the reservation of a controller that died.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if is_cluster_private():
            # The reservation ends with the cluster.
            unused += (PlacementGroupCleanerCallback,)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, unused)]
