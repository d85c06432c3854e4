"""Judging of a model on held-out preferences, in one process and in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sunloom.config.llm import TrainingObjective
from sunloom.llm.encoding import Encoded
from sunloom.llm.feedback_rows import FeedbackRows, score_rows
from sunloom.llm.objectives import OBJECTIVES, Completions
from sunloom.llm.preference_loss import PreferenceLoss
from sunloom.llm.preference_scores import PreferenceScores

_AT_ONCE = 8


@torch.inference_mode()
def judge_preferences(
    model: Any,
    rows: Sequence[Encoded],
    objective: TrainingObjective,
    pad: int,
    start: NDArray[np.float32] | None = None,
) -> PreferenceScores:
    """Judge a model by what it would be rewarded for.

    Args:
        model: A causal language model, with or without an adapter.
        rows: Held-out preferences.
        objective: Says what a reward is.
        pad: Token id that fills short rows.
        start: Scores of the model that training started from; None where this is that model.
    """
    kind = OBJECTIVES[type(objective)]
    module = PreferenceLoss(model, torch.float32, objective).eval()
    lengths = [len(row.ids) for row in rows]
    found = FeedbackRows(rows, longest_other=max(lengths) if kind.needs_kl else None)
    scores = score_rows(module, found, lengths, pad, model.device)
    compared = found.with_start(scores if start is None else start)
    first, second = torch.from_numpy(scores.T.copy())
    first_start, second_start = torch.from_numpy((scores if start is None else start).T.copy())
    tokens = torch.tensor(
        [[int(one.mask[1:].sum()) for one in row.sequences()] for row in compared]
    ).T
    kl = (second - second_start).mean().clamp(min=0)
    is_desirable = torch.tensor([row.label for row in rows])
    batch = Completions(
        first=first, second=second, first_start=first_start, second_start=second_start,
        first_tokens=tokens[0], second_tokens=tokens[1], is_desirable=is_desirable, kl=kl,
    )  # fmt: skip
    chosen, rejected = kind.rewards(objective, batch)
    if kind.needs_kl:
        chosen, rejected = chosen[is_desirable], chosen[~is_desirable]
    return PreferenceScores(
        scores=scores,
        chosen=chosen.tolist(),
        rejected=rejected.tolist(),
        is_paired=not kind.needs_kl,
        loss=_mean_loss(module, compared, pad, kl),
    )


def _mean_loss(
    module: PreferenceLoss, rows: Sequence[Encoded], pad: int, kl: torch.Tensor
) -> float:
    counts = module.counts(rows)
    device = next(module.parameters()).device
    totals = [0.0] * len(counts)
    for begin in range(0, len(rows), _AT_ONCE):
        inputs = [part.to(device) for part in module.collate(rows[begin : begin + _AT_ONCE], pad)]
        sums = module(*inputs, kl.to(device)).tolist()
        totals = [total + value for total, value in zip(totals, sums, strict=False)]
    return sum(total / count for total, count in zip(totals, counts, strict=True))
