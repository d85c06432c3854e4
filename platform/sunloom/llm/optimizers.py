"""Optimizers by name: how each is built, and how much state it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sunloom.config.llm import TrainingConfig


@dataclass(frozen=True)
class Optimizer:
    """A kind of optimizer.

    Attributes:
        build: Makes a ``torch.optim.Optimizer`` of the trained parameters.
        moments: Values of state that it keeps for each trained parameter.
    """

    build: Callable[[list[Any], TrainingConfig], Any]
    moments: int


def _build_adamw(parameters: list[Any], config: TrainingConfig) -> Any:
    import torch

    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


OPTIMIZERS: Mapping[str, Optimizer] = {"adamw": Optimizer(build=_build_adamw, moments=2)}
"""Values of ``training.optimizer``; training builds from it and the memory plan reads it."""
