"""Ray Train's trainer with the processes that a run needs, and no others."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from typing_extensions import override

from sunloom.core.cluster import is_cluster_private


class LeanTorchTrainer(TorchTrainer):
    """A ``TorchTrainer`` whose workers read their rows from a file.

    Ray starts a process for each service of a run, and each spends seconds on its imports: one
    deals data sets out, another removes the reservation of a controller that died.
    """

    _controller: ActorHandle[Any] | None = None

    @override
    def fit(self) -> Result:
        """Train; on an interrupt or another error no worker goes on."""
        try:
            return super().fit()
        except BaseException:
            # Its handle would live as long as the exception's traceback, and the workers with it.
            if self._controller is not None:
                ray.kill(self._controller)
            raise

    @override
    def _register_sigint_handler(self, controller: ActorHandle[Any]) -> None:
        self._controller = controller
        # A search trains beside the main thread, which alone has handlers.
        if threading.current_thread() is threading.main_thread():
            super()._register_sigint_handler(controller)

    @override
    def _create_default_callbacks(self) -> list[Any]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if is_cluster_private():
            # The reservation ends with the cluster.
            unused += (PlacementGroupCleanerCallback,)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, unused)]
