"""Scores of a model on held-out preferences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sunloom.evaluation.measurements import Measurement


@dataclass(frozen=True)
class PreferenceScores:
    """How a model orders completions that people judged.

    Attributes:
        scores: Log-probabilities of each row's completions ``[N, 2]``.
        chosen: Rewards of the chosen, or of the desirable, completions.
        rejected: Of the others.
        is_paired: Whether both are of the same prompts, one by one.
        loss: The objective's.
    """

    scores: NDArray[np.float32]
    chosen: Sequence[float]
    rejected: Sequence[float]
    is_paired: bool
    loss: float

    @property
    def accuracy(self) -> float | None:
        """Share of pairs with the higher reward for the chosen one; a tie is half of a pair.

        Without pairs each desirable completion is compared with each undesirable one. None where
        there is nothing to compare.
        """
        chosen, rejected = np.asarray(self.chosen), np.asarray(self.rejected)
        if not len(chosen) or not len(rejected):
            return None
        gaps = chosen - rejected if self.is_paired else chosen[:, None] - rejected[None]
        return float((gaps > 0).mean() + (gaps == 0).mean() / 2)

    @property
    def standard_error(self) -> float | None:
        """Of the accuracy; without pairs, as if there were as many as of the rarer kind."""
        if (share := self.accuracy) is None:
            return None
        number = min(len(self.chosen), len(self.rejected))
        # One right and one wrong more (Agresti and Coull): three right ones of three are no proof.
        share = (share * number + 1) / (number + 2)
        return math.sqrt(share * (1 - share) / (number + 2))

    @property
    def margin(self) -> float | None:
        """Mean reward of the chosen less that of the rejected."""
        if not self.chosen or not self.rejected:
            return None
        return float(np.mean(self.chosen) - np.mean(self.rejected))

    def measure(self) -> list[Measurement]:
        """``preferences.accuracy``, ``preferences.margin`` and ``loss``."""
        gaps: NDArray[np.float64] = np.zeros(0)
        if self.is_paired:
            gaps = np.asarray(self.chosen, float) - np.asarray(self.rejected, float)
        keys = tuple(str(number) for number in range(1, len(gaps) + 1))
        right = np.where(gaps == 0, 0.5, gaps > 0)
        count = min(len(self.chosen), len(self.rejected))
        # Each with each, where there are no pairs: no row has a value of its own.
        accuracy = Measurement(
            figure="preferences.accuracy",
            metric="share of preferences in their right order",
            keys=keys,
            values=tuple(right.tolist()),
            value=None if keys else self.accuracy,
            standard_error=None if keys else self.standard_error,
            count=count,
        )
        margin = Measurement(
            figure="preferences.margin",
            metric="reward of the chosen less that of the rejected",
            keys=keys,
            values=tuple(gaps.tolist()),
            value=None if keys else self.margin,
            count=count,
        )
        loss = Measurement(
            figure="loss",
            metric="mean of the objective's loss",
            value=self.loss,
            count=len(self.scores),
            is_lower_better=True,
        )
        return [accuracy, margin, loss]
