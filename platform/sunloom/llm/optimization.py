"""What a step minimises, and the learning rate that it does so with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sunloom.config.llm import ConstantSchedule, CosineSchedule, TrainingConfig, WsdSchedule
from sunloom.llm.encoding import IGNORED


class CausalLoss(nn.Module):
    """Next-token loss of a causal language model, with logits only where the loss is.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        label_smoothing: Share of the target that all tokens divide among them, in training.
        neftune_alpha: Size of the noise on the embeddings, in training.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        label_smoothing: float = 0.0,
        neftune_alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype
        self._label_smoothing = label_smoothing
        if neftune_alpha is not None:
            embeddings = core_of(model).get_input_embeddings()
            embeddings.register_forward_hook(_NeftuneNoise(neftune_alpha))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed loss over the labelled tokens.

        Args:
            ids: Token ids ``[B, S]``, padded on the right: under a causal mask no real token
                sees the padding, so no attention mask is needed.
            labels: ``[B, S]``, ``IGNORED`` where there is no loss.
        """
        core = core_of(self.model)
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
        return nn.functional.cross_entropy(
            logits.float(),
            targets[keep],
            reduction="sum",
            label_smoothing=self._label_smoothing if self.training else 0.0,
        )


def core_of(model: Any) -> Any:
    """The language model itself, inside an adapter or not."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class _NeftuneNoise:
    """Uniform noise on embeddings in training.

    Of the size alpha over the root of length times width, as in the paper (arXiv 2310.05914).
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def __call__(self, module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        most = self._alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-most, most)


# A pure function of the step: a resumed run needs no scheduler state.
def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up to the peak, then what the schedule says.

    Args:
        step: Steps done before this one.
        config: Peak, warm-up, schedule and length.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        # From step + 1: a rate of 0 would waste the first batch.
        return peak * (step + 1) / warmup
    schedule, left = config.schedule, max(1, config.max_steps - warmup)
    share = (step - warmup) / left
    if isinstance(schedule, ConstantSchedule):
        return peak
    if isinstance(schedule, CosineSchedule):
        height = 0.5 * (1 + math.cos(math.pi * share))
    elif isinstance(schedule, WsdSchedule):
        decay = max(1, round(schedule.decay_ratio * config.max_steps))
        height = min(1.0, (config.max_steps - step) / decay)
    else:
        height = 1 - share
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * height)
