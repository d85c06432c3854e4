"""What a step minimises and how: the loss, the learning-rate schedule, the optimizers by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sunloom.config.llm import TrainingConfig
from sunloom.llm.encoding import IGNORED

_RATE_FLOOR = 0.01


class CausalLoss(nn.Module):
    """Next-token loss of a causal language model, with logits only where the loss is.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed loss over the labelled tokens.

        Args:
            ids: Token ids ``[B, S]``, padded on the right: under a causal mask no real token
                sees the padding, so no attention mask is needed.
            labels: ``[B, S]``, ``IGNORED`` where there is no loss.
        """
        core: Any = (
            self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        )
        targets = labels[:, 1:]
        keep = targets != IGNORED
        enabled = self._dtype != torch.float32
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=enabled):
            hidden = core.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            # Logits of every position would be the largest tensor of a step, mostly for prompt
            # tokens.
            logits = core.get_output_embeddings()(hidden[:, :-1][keep])
        # In float32, as bfloat16 has 8 bits for a log-sum-exp. Summed: a mean would be over this
        # worker's tokens only, whose number differs.
        return nn.functional.cross_entropy(logits.float(), targets[keep], reduction="sum")


# A pure function of the step: a resumed run needs no scheduler state.
def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up to the peak, then a cosine down to a hundredth of it.

    Args:
        step: Steps done before this one.
        config: Peak, warm-up and length.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        # From step + 1: a rate of 0 would waste the first batch.
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, config.max_steps - warmup)
    return peak * (_RATE_FLOOR + (1 - _RATE_FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True)
class Optimizer:
    """A kind of optimizer.

    Attributes:
        build: Makes it of the trained parameters.
        moments: Values of state that it keeps for each trained parameter.
    """

    build: Callable[[list[Any], TrainingConfig], torch.optim.Optimizer]
    moments: int


def _build_adamw(parameters: list[Any], config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


OPTIMIZERS: Mapping[str, Optimizer] = {"adamw": Optimizer(build=_build_adamw, moments=2)}
"""Values of ``training.optimizer``; training builds from it and the memory plan reads it."""
