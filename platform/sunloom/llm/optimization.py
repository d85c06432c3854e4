"""What a step minimises, and the learning rate that it does so with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from sunloom.config.llm import ConstantSchedule, CosineSchedule, TrainingConfig, WsdSchedule
from sunloom.llm.encoding import IGNORED, Encoded, collate
from sunloom.llm.packing import layout_of, pack, use_packed_attention


class LossModule(nn.Module, ABC):
    """A language model with the loss that it is trained by; its inputs are a batch's tensors.

    A call gives sums over the batch: first the terms of the loss, then figures of progress. Where
    rows differ in what they count for, a mean over one worker's would not be that over all.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        neftune_alpha: Size of the noise on the embeddings, in training.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, *, neftune_alpha: float | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._dtype = dtype
        self._noise = None if neftune_alpha is None else _NeftuneNoise(neftune_alpha)
        if self._noise is not None:
            core_of(model).get_input_embeddings().register_forward_hook(self._noise)

    @abstractmethod
    def collate(self, rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, ...]:
        """Inputs of a call.

        Args:
            rows: Of the batch.
            pad: Token id that fills short rows.
        """

    @abstractmethod
    def counts(self, rows: Sequence[Encoded]) -> list[int]:
        """What each term of the loss is divided by, over all rows of a step."""

    def rows_with_gradient(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """Rows of a step that have a gradient."""
        return rows

    def figures(self, sums: Sequence[float], rows: Sequence[Encoded]) -> dict[str, float]:
        """Figures of progress by name.

        Args:
            sums: Those of a call, over all rows, without the terms of the loss.
            rows: All of them.
        """
        del sums, rows
        return {}

    def _logits(
        self, ids: torch.Tensor, keep: torch.Tensor, layout: Mapping[str, Any] | None = None
    ) -> torch.Tensor:
        """Logits in float32 of the tokens after the kept positions ``[N, V]``.

        Args:
            ids: Token ids ``[B, S]``, padded on the right: under a causal mask no real token
                sees the padding, so no attention mask is needed.
            keep: Positions whose next tokens are predicted ``[B, S - 1]``.
            layout: Further arguments of the model.
        """
        core = core_of(self.model)
        enabled = self._dtype != torch.float32
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=enabled):
            decoder = core.get_decoder()
            hidden = decoder(input_ids=ids, use_cache=False, **(layout or {})).last_hidden_state
            # Logits of every position would be the largest tensor of a step, mostly for prompt
            # tokens.
            logits: torch.Tensor = core.get_output_embeddings()(hidden[:, :-1][keep])
        # In float32, as bfloat16 has 8 bits for a log-sum-exp.
        return logits.float()


class CausalLoss(LossModule):
    """Next-token loss of a causal language model, with logits only where the loss is.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        label_smoothing: Share of the target that all tokens divide among them, in training.
        neftune_alpha: Size of the noise on the embeddings, in training.
        is_packed: Whether the rows of a batch lie end to end.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        label_smoothing: float = 0.0,
        neftune_alpha: float | None = None,
        is_packed: bool = False,
    ) -> None:
        super().__init__(model, dtype, neftune_alpha=neftune_alpha)
        self._label_smoothing, self._is_packed = label_smoothing, is_packed
        if is_packed:
            use_packed_attention(core_of(model))

    def forward(
        self, ids: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Summed loss over the labelled tokens.

        Args:
            ids: Token ids ``[B, S]``, padded on the right; ``[1, T]`` of rows that lie end to end.
            labels: The same shape, ``IGNORED`` where there is no loss and where such a row begins.
            lengths: Of such rows ``[N]``.
        """
        if self._noise is not None:
            self._noise.lengths = lengths
        layout = None if lengths is None else layout_of(lengths)
        targets = labels[:, 1:]
        keep = targets != IGNORED
        return nn.functional.cross_entropy(
            self._logits(ids, keep, layout),
            targets[keep],
            reduction="sum",
            label_smoothing=self._label_smoothing if self.training else 0.0,
        )

    def row_losses(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed loss over the labelled tokens of each row ``[B]``, without smoothing.

        Args:
            ids: Token ids ``[B, S]``, padded on the right.
            labels: The same shape, ``IGNORED`` where there is no loss.
        """
        targets = labels[:, 1:]
        keep = targets != IGNORED
        losses = nn.functional.cross_entropy(
            self._logits(ids, keep), targets[keep], reduction="none"
        )
        # In float64: judges compare small differences.
        sums = torch.zeros(len(ids), dtype=torch.float64, device=losses.device)
        return sums.index_add(0, keep.nonzero()[:, 0], losses.double())

    @override
    def collate(self, rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, ...]:
        if self._is_packed:
            return pack(rows)
        ids, labels = collate(rows, pad)
        return torch.from_numpy(ids), torch.from_numpy(labels)

    @override
    def counts(self, rows: Sequence[Encoded]) -> list[int]:
        """The labelled tokens."""
        # The first token of a row has no token before it that could predict it.
        return [sum(int(row.mask[1:].sum()) for row in rows)]


def core_of(model: Any) -> Any:
    """The language model itself, inside an adapter or not."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class _NeftuneNoise:
    """Uniform noise on embeddings in training.

    Of the size alpha over the root of length times width, as in the paper (arXiv 2310.05914).
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        # Of rows that lie end to end.
        self.lengths: torch.Tensor | None = None

    def __call__(self, module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        noise = torch.empty_like(output).uniform_(-1, 1)
        if self.lengths is None:
            return output + noise * (self._alpha / math.sqrt(output.shape[-2] * output.shape[-1]))
        of_token = self.lengths.repeat_interleave(self.lengths)[:, None]
        return output + noise * (self._alpha / (of_token * output.shape[-1]).sqrt())


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
