"""Losses of completions that people judged, computed by the language model under training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from sunloom.config.llm import TrainingObjective
from sunloom.llm.encoding import IGNORED, Encoded
from sunloom.llm.feedback_rows import collate_sequences
from sunloom.llm.objectives import OBJECTIVES, Completions
from sunloom.llm.optimization import LossModule, core_of


class PreferenceLoss(LossModule):
    """The loss of preference pairs, or of completions with a label.

    Args:
        model: A causal language model, with or without an adapter.
        dtype: Number format of the matrix products.
        objective: What is minimised.
        neftune_alpha: Size of the noise on the embeddings, in training.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        objective: TrainingObjective,
        *,
        neftune_alpha: float | None = None,
    ) -> None:
        super().__init__(model, dtype, neftune_alpha=neftune_alpha)
        self.objective = objective
        self.kind = OBJECTIVES[type(objective)]

    def forward(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor,
        start: torch.Tensor | None = None,
        is_desirable: torch.Tensor | None = None,
        kl: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sums over the batch: terms of the loss, then rewards; without ``start``, only scores.

        Args:
            ids: Token ids, padded on the right: chosen rows, then rejected ones ``[2 B, S]``, or
                completions with a label ``[B, S]``.
            labels: Alike, ``IGNORED`` outside of the completions.
            lengths: Of each row without its padding.
            start: Log-probabilities before training, of each row, ``[2, B]``.
            is_desirable: The labels ``[B]``.
            kl: The mean shift on other completions; 0 by default.

        Returns:
            The sums ``[T + 3]``; without ``start``, the log-probability of each row's labelled
            tokens, or its score by the head, ``[2 B]`` or ``[B]``.
        """
        is_labelled = labels[:, 1:] != IGNORED
        is_real = is_labelled.any(dim=1, keepdim=True)
        keep = is_text = is_labelled
        if self.kind.learns_chosen and start is not None:
            is_chosen = torch.arange(len(ids), device=ids.device) < len(ids) // 2
            positions = torch.arange(1, ids.shape[1], device=ids.device)
            is_text = (positions < lengths[:, None]) & is_chosen[:, None] & is_real
            keep = is_labelled | is_text
        if self.kind.has_head:
            tokens = torch.zeros(keep.shape, device=ids.device)
            scores = self._head_scores(ids, lengths)
        else:
            values = -nn.functional.cross_entropy(
                self._logits(ids, keep), ids[:, 1:][keep], reduction="none"
            )
            tokens = torch.zeros(keep.shape, device=ids.device).masked_scatter(keep, values)
            scores = (tokens * is_labelled).sum(dim=1)
        if start is None or is_desirable is None:
            return scores
        # Rows without labels fill a worker's place where there are too few: any score but zero, of
        # which some losses have no gradient.
        scores = scores.masked_fill(~is_real[:, 0], -1.0)
        size = start.shape[1]
        counts = is_labelled.sum(dim=1)
        batch = Completions(
            first=scores[:size],
            second=scores[size:],
            first_start=start[0],
            second_start=start[1, : len(scores) - size],
            first_tokens=counts[:size],
            second_tokens=counts[size:],
            is_desirable=is_desirable,
            kl=torch.zeros((), device=ids.device) if kl is None else kl,
        )
        weights = is_real[:size, 0]
        assert self.kind.loss is not None
        terms = [(self.kind.loss(self.objective, batch) * weights).sum()]
        if self.kind.learns_chosen:
            terms.append(-(tokens * is_text).sum())
        return torch.stack([*terms, *(v.detach() for v in self._sum_rewards(batch, weights))])

    def _head_scores(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What the head says of each row's last token, in float32 ``[B]``."""
        core: Any = core_of(self.model)
        enabled = self._dtype != torch.float32
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=enabled):
            hidden = core.base_model(input_ids=ids, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
            scores: torch.Tensor = core.score(last)
        return scores.squeeze(-1).float()

    def _sum_rewards(self, batch: Completions, weights: torch.Tensor) -> list[torch.Tensor]:
        """Rewards of the chosen and of the rejected, and the pairs in their right order."""
        first, second = self.kind.rewards(self.objective, batch)
        if not len(second):
            is_good = batch.is_desirable & weights
            return [(first * is_good).sum(), (first * (weights & ~batch.is_desirable)).sum(),
                    weights.sum().float()]  # fmt: skip
        right = (first > second).float() + (first == second).float() / 2
        return [(first * weights).sum(), (second * weights).sum(), (right * weights).sum()]

    @property
    def _has_pairs(self) -> bool:
        # The second sequence of a completion with a label is another prompt's, and not its rival.
        return not self.kind.needs_kl

    @override
    def collate(self, rows: Sequence[Encoded], pad: int) -> tuple[torch.Tensor, ...]:
        sequences = [row.sequences() for row in rows]
        chosen = [first for first, *_ in sequences]
        rejected = [second for _, second in sequences] if self._has_pairs else []
        start = np.asarray([row.start or (0.0, 0.0) for row in rows], np.float32).T
        is_desirable = [row.label for row in rows]
        return (
            *collate_sequences([*chosen, *rejected], pad),
            torch.from_numpy(start.copy()),
            torch.tensor(is_desirable),
        )

    @override
    def counts(self, rows: Sequence[Encoded]) -> list[int]:
        """The rows, and the tokens of the chosen text where they are learned."""
        if not self.kind.learns_chosen:
            return [len(rows)]
        return [len(rows), sum(len(row.sequences()[0].ids) - 1 for row in rows)]

    @override
    def figures(self, sums: Sequence[float], rows: Sequence[Encoded]) -> dict[str, float]:
        """Mean rewards and their margin, and the share of pairs in their right order."""
        good, bad, right = sums
        chosen = rejected = len(rows)
        if not self._has_pairs:
            chosen = sum(row.label for row in rows)
            rejected = len(rows) - chosen
        # A step may have completions of one kind alone, of whose other there is no mean.
        means = {"rewards/chosen": (good, chosen), "rewards/rejected": (bad, rejected)}
        found = {name: total / number for name, (total, number) in means.items() if number}
        if len(found) == len(means):
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        if self._has_pairs:
            found["rewards/accuracies"] = right / len(rows)
        return found
