"""The loss of group relative policy optimization: completions that were drawn, and their rewards.

It is TRL 1.16's (``GRPOTrainer``): group-normalised advantages, clipped probability ratios, and
truncated importance sampling (``token_truncate``) for the engine that drew the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from sunloom.config.llm import Grpo
from sunloom.llm.encoding import IGNORED, Encoded, collate
from sunloom.llm.optimization import LossModule

# Keeps the advantages of a group finite whose rewards are all but equal.
_LEAST_DEVIATION = 1e-4
_NONE: NDArray[np.float32] = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Rollout(Encoded):
    """A prompt with a completion, which ``mask`` marks; ``[C]`` are its tokens.

    Attributes:
        behaviour: Log-probabilities in the engine that drew it ``[C]``.
        reward: Weighted sum of its rewards.
        advantage: Over its group.
        is_truncated: Whether it was cut off before its end.
        old: Log-probabilities by the weights before the first pass over it ``[C]``; empty where
            this is that pass.
        reference: By the model that training starts from ``[C]``; empty where it does not count.
    """

    behaviour: NDArray[np.float32] = field(default_factory=_NONE.copy)
    reward: float = 0.0
    advantage: float = 0.0
    is_truncated: bool = False
    old: NDArray[np.float32] = field(default_factory=_NONE.copy)
    reference: NDArray[np.float32] = field(default_factory=_NONE.copy)


def group_advantages(rewards: NDArray[np.float64], objective: Grpo) -> NDArray[np.float32]:
    """What each reward is above its group's mean, in deviations of the group or the batch ``[N]``.

    Args:
        rewards: Of the groups, one after the other ``[N]``.
        objective: The size of a group, and what is divided by.
    """
    groups = rewards.reshape(-1, objective.group_size)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if objective.scale_rewards == "group":
        centred = centred / (groups.std(axis=1, ddof=1, keepdims=True) + _LEAST_DEVIATION)
    elif objective.scale_rewards == "batch":
        centred = centred / (groups.std(ddof=1) + _LEAST_DEVIATION)
    # Equal rewards, of which a mean may be off by a rounding.
    centred[np.ptp(groups, axis=1) == 0] = 0
    result: NDArray[np.float32] = centred.reshape(-1).astype(np.float32)
    return result


class GrpoLoss(LossModule):
    """The loss of rollouts.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        objective: What is minimised.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, objective: Grpo) -> None:
        super().__init__(model, dtype)
        self.objective = objective
        self._largest_gap = 0.0

    def forward(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        advantages: torch.Tensor | None = None,
        behaviour: torch.Tensor | None = None,
        old: torch.Tensor | None = None,
        reference: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sums over the batch: the loss, then what the figures are made from.

        Args:
            ids: Token ids, padded on the right ``[B, S]``.
            labels: Alike, ``IGNORED`` outside of the completions.
            advantages: ``[B]``.
            behaviour: Log-probabilities in the engine, at the places of the labels ``[B, S - 1]``.
            old: Alike, before the first pass; without values where this is it.
            reference: Alike, before training; without values where they do not count.

        Returns:
            The sums ``[6]``; without ``advantages`` the log-probabilities ``[B, S - 1]``.
        """
        keep = labels[:, 1:] != IGNORED
        values = -nn.functional.cross_entropy(
            self._logits(ids, keep) / self.objective.temperature,
            ids[:, 1:][keep],
            reduction="none",
        )
        if advantages is None or behaviour is None:
            return torch.zeros(keep.shape, device=ids.device).masked_scatter(keep, values)
        rows = keep.nonzero()[:, 0]
        before = old[keep] if old is not None and old.numel() else values.detach()
        gaps = before - behaviour[keep]
        corrections = gaps.exp()
        cap = self.objective.importance_sampling_cap
        ratios = (values - before).exp()
        losses = self._token_losses(ratios, advantages[rows]) * corrections.clamp(max=cap)
        if reference is not None and reference.numel():
            away = reference[keep] - values
            # Times the ratio, whose gradient makes that of the estimate unbiased.
            losses = losses + self.objective.beta * (away.exp() - away - 1) * ratios
        if self.objective.loss_type == "grpo":
            losses = losses / keep.sum(dim=1).clamp(min=1)[rows]
        if len(gaps):
            self._largest_gap = max(self._largest_gap, float(gaps.abs().max()))
        # k3, of the engine's distribution from the trainer's.
        divergence = corrections - 1 - gaps
        figures = [gaps.abs(), divergence, corrections, (corrections > cap).float()]
        count = torch.tensor(float(len(gaps)), device=ids.device)
        return torch.stack([losses.sum(), *(value.sum() for value in figures), count])

    def _token_losses(self, ratios: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """The clipped objective of each token ``[N]``."""
        low = self.objective.epsilon
        high = self.objective.epsilon_high or low
        clipped = ratios.clamp(1 - low, 1 + high)
        return -torch.min(ratios * advantages, clipped * advantages)

    @torch.no_grad()
    def score(self, rows: Sequence[Rollout], pad: int) -> list[NDArray[np.float32]]:
        """Log-probabilities of each row's completion now, in one pass.

        Args:
            rows: Of the pass.
            pad: Token id that fills short rows.
        """
        device = next(self.model.parameters()).device
        ids, labels = (torch.from_numpy(part).to(device) for part in collate(rows, pad))
        scores = self(ids, labels).cpu().numpy()
        return [one[row.mask[1:].nonzero()[0]] for one, row in zip(scores, rows, strict=True)]

    @torch.no_grad()
    def score_next(self, prompts: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
        """Log-probabilities of every token after each prompt ``[P, V]``.

        Args:
            prompts: Token ids.
            pad: Token id that fills short prompts.
        """
        device = next(self.model.parameters()).device
        width = max(map(len, prompts)) + 1
        ids = torch.tensor([[*p, *[pad] * (width - len(p))] for p in prompts], device=device)
        keep = torch.zeros((len(prompts), width - 1), dtype=torch.bool, device=device)
        keep[range(len(prompts)), [len(prompt) - 1 for prompt in prompts]] = True
        return torch.log_softmax(self._logits(ids, keep) / self.objective.temperature, -1)

    @override
    def rows_with_gradient(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """Rows with a gradient: of a group with equal rewards none has one, but for ``beta``."""
        if self.objective.beta:
            return rows
        return [row for row in _as_rollouts(rows) if row.advantage]

    @override
    def collate(self, rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, ...]:
        chosen = _as_rollouts(rows)
        ids, labels = map(torch.from_numpy, collate(chosen, pad))
        parts: list[Any] = [ids, labels, torch.tensor([row.advantage for row in chosen])]
        for name in ("behaviour", "old", "reference"):
            # A row that fills a place has no completion.
            values = [getattr(row, name) for row in chosen]
            if name != "behaviour" and not all(len(v) for v in values):
                parts.append(torch.zeros(0))
                continue
            placed = torch.zeros((len(chosen), ids.shape[1] - 1))
            for index, (row, value) in enumerate(zip(chosen, values, strict=True)):
                if row.mask.any():
                    placed[index, torch.from_numpy(row.mask[1:].nonzero()[0])] = torch.from_numpy(
                        value
                    )
            parts.append(placed)
        return tuple(parts)

    @override
    def counts(self, rows: Sequence[Encoded]) -> list[int]:
        """What ``loss_type`` divides by; completions without a gradient count, too."""
        if self.objective.loss_type == "dapo":
            return [sum(int(row.mask.sum()) for row in rows)]
        if self.objective.loss_type == "grpo":
            return [len(rows)]
        return [len(rows) * self.objective.max_completion_length]

    @override
    def figures(self, sums: Sequence[float], rows: Sequence[Encoded]) -> dict[str, float]:
        """Rewards, lengths, and how far the engine is from the trainer."""
        largest = torch.tensor(self._largest_gap)
        self._largest_gap = 0.0
        if dist.is_initialized():
            device = next(self.model.parameters()).device
            largest = largest.to(device)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        gap, divergence, ratio, capped, tokens = sums
        chosen = _as_rollouts(rows)
        rewards = np.asarray([row.reward for row in chosen])
        groups = rewards.reshape(-1, self.objective.group_size)
        found = {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "groups/equal_share": float((np.ptp(groups, axis=1) == 0).mean()),
            "completions/mean_length": float(np.mean([row.mask.sum() for row in chosen])),
            "completions/truncated_share": float(np.mean([row.is_truncated for row in chosen])),
        }
        if tokens:
            found |= {
                "mismatch/mean": gap / tokens,
                "mismatch/max": float(largest),
                "mismatch/kl": divergence / tokens,
                "mismatch/ratio": ratio / tokens,
                "mismatch/capped_share": capped / tokens,
            }
        return found


@contextmanager
def hold_weights(module: nn.Module, weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Other values in the trained parameters while the block lasts.

    Args:
        module: Its parameters with a gradient, in their order.
        weights: One for each.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter, value in zip(trained, weights, strict=True):
            parameter.copy_(value)
        try:
            yield
        finally:
            for parameter, value in zip(trained, kept, strict=True):
                parameter.copy_(value)


def _as_rollouts(rows: Sequence[Encoded]) -> list[Rollout]:
    return [row for row in rows if isinstance(row, Rollout)]
