"""Optimizers by name, and the groups of parameters that they are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from sunloom.config.llm import (
    Adafactor,
    AdamW,
    AdamW8Bit,
    Lion,
    Muon,
    PluginOptimizer,
    TrainingConfig,
)
from sunloom.core.plugins import load_plugin
from sunloom.errors import PluginError
from sunloom.llm.optimization import core_of

OPTIMIZER_GROUP = "sunloom.optimizers"
RATE_SCALE = "rate_scale"
"""Key of a parameter group: how many times the learning rate it has; once where it is missing."""
_IS_VOCABULARY = "_sunloom_is_vocabulary"
Group = dict[str, Any]


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    config: TrainingConfig,
    *,
    loraplus_ratio: float | None = None,
) -> list[Group]:
    """The trained parameters in torch's groups, by weight decay and scale of the learning rate.

    Args:
        named: Parameters by their names.
        config: Weight decay, and the parameters that have another one.
        loraplus_ratio: How many times the learning rate an adapter's second matrices have.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        matching = (g.weight_decay for g in config.weight_decay_groups if re.search(g.match, name))
        decay = next(matching, config.weight_decay)
        scale = loraplus_ratio if loraplus_ratio is not None and ".lora_B." in name else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay}
        # Not written where it says nothing: checkpoints from before have no such key.
        | ({RATE_SCALE: scale} if scale != 1 else {})
        for (decay, scale), parameters in groups.items()
    ]


@dataclass(frozen=True)
class OptimizerKind:
    """A kind of optimizer.

    Attributes:
        build: Makes it of parameter groups.
        state_bytes: That it keeps for each trained parameter, in large matrices.
    """

    build: Callable[[list[Group], TrainingConfig], torch.optim.Optimizer]
    state_bytes: float


def build_optimizer(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that the recipe names."""
    return OPTIMIZERS[type(config.optimizer)].build(groups, config)


def _build_adamw(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def _build_adamw_8bit(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(groups, lr=config.learning_rate, betas=config.betas)
    return made


def _build_lion(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    return LionOptimizer(groups, lr=config.learning_rate, betas=config.betas)


def _build_muon(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    assert isinstance(config.optimizer, Muon)
    return MuonOptimizer(
        groups, lr=config.learning_rate, betas=config.betas, momentum=config.optimizer.momentum
    )


def _build_adafactor(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=config.learning_rate)


def _build_plugin(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    assert isinstance(config.optimizer, PluginOptimizer)
    name = config.optimizer.name
    made = load_plugin(OPTIMIZER_GROUP, name)(groups, **config.optimizer.options)
    if not isinstance(made, torch.optim.Optimizer):
        raise PluginError(
            f"The optimizer {name!r} made a {type(made).__name__}, not a torch.optim.Optimizer.",
            param="training.optimizer.name",
        )
    return made


OPTIMIZERS: Mapping[type, OptimizerKind] = {
    AdamW: OptimizerKind(_build_adamw, state_bytes=8),
    AdamW8Bit: OptimizerKind(_build_adamw_8bit, state_bytes=2),
    Lion: OptimizerKind(_build_lion, state_bytes=4),
    Muon: OptimizerKind(_build_muon, state_bytes=4),
    Adafactor: OptimizerKind(_build_adafactor, state_bytes=0),
    # Unknown: counted as AdamW's.
    PluginOptimizer: OptimizerKind(_build_plugin, state_bytes=8),
}
"""By the section of ``training.optimizer``; training builds from it, the memory plan reads it."""


class LionOptimizer(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675); bitsandbytes' takes no sharded tensors.

    Args:
        groups: Parameters, with ``weight_decay``.
        lr: Learning rate.
        betas: Decay of the moment in the update, and in itself.
    """

    def __init__(self, groups: list[Group], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                moment = state["exp_avg"]
                update = torch.lerp(parameter.grad, moment, beta1).sign_()
                parameter.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate)
                moment.lerp_(parameter.grad, 1 - beta2)
        return loss


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for matrices, AdamW for the rest, as one optimizer.

    torch's Muon takes matrices only. Its updates are scaled to the size of AdamW's (arXiv
    2502.16982), so that both have one learning rate.

    Args:
        groups: Parameters, with ``weight_decay``.
        lr: Learning rate.
        betas: Of AdamW.
        momentum: Of Muon.
    """

    def __init__(
        self, groups: list[Group], *, lr: float, betas: tuple[float, float], momentum: float
    ) -> None:
        parts: list[Group] = []
        for group in groups:
            for is_matrix in (True, False):
                chosen = [p for p in group["params"] if is_hidden_matrix(p) == is_matrix]
                if chosen:
                    parts.append({**group, "params": chosen, "is_matrix": is_matrix})
        super().__init__(parts, {"lr": lr})
        self._settings: Group = {"betas": betas, "momentum": momentum}
        self._connect()

    def _connect(self) -> None:
        """Let both optimizers work on this one's groups and state."""
        matrices = [group for group in self.param_groups if group["is_matrix"]]
        others = [group for group in self.param_groups if not group["is_matrix"]]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices, momentum=self._settings["momentum"], adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=self._settings["betas"]))
        for part in self._parts:
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over groups and state."""
        super().load_state_dict(state_dict)
        self._connect()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss


def is_hidden_matrix(parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: a matrix that is neither embedding nor head."""
    return parameter.ndim == 2 and not getattr(parameter, _IS_VOCABULARY, False)


def mark_vocabulary(model: Any) -> None:
    """Mark the embeddings and the head of a language model, which Muon leaves to AdamW."""
    core = core_of(model)
    for module in (core.get_input_embeddings(), core.get_output_embeddings()):
        for parameter in () if module is None else module.parameters():
            setattr(parameter, _IS_VOCABULARY, True)
