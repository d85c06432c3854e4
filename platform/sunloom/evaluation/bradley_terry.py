"""Bradley and Terry's model of votes on pairs: a strength for each model, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z = 1.96
_STEPS = 100


@dataclass(frozen=True)
class PairVote:
    """One vote.

    Attributes:
        first, second: Names of the models.
        score: Of the first: 1 for a win, 0.5 for a tie, 0 for a loss.
    """

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Strength:
    """What votes say of a model.

    Attributes:
        model: Its name.
        strength: Log-odds of a win over a model of the mean strength.
        low, high: Interval of 95 %.
        wins, ties, losses: Votes.
    """

    model: str
    strength: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


def fit_strengths(votes: Sequence[PairVote]) -> tuple[Strength, ...]:
    """Strengths of the models that were voted on, the strongest first.

    The likeliest ones, where a tie is half a win for both, and each two models that met have one
    tie more: without it, who never lost would be infinitely strong. Their mean is 0.

    Args:
        votes: Any number. Models that no chain of votes joins are not to be compared.
    """
    names = sorted({name for vote in votes for name in (vote.first, vote.second)})
    place = {name: number for number, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for vote in votes:
        i, j = place[vote.first], place[vote.second]
        wins[i, j] += vote.score
        wins[j, i] += 1 - vote.score
    met = wins + wins.T
    wins = wins + (met > 0) / 2
    met = wins + wins.T
    strengths = np.zeros(len(names))
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        gradient = (wins - met * chances).sum(axis=1)
        spread = met * chances * (1 - chances)
        information = np.diag(spread.sum(axis=1)) - spread
        # Only differences of strengths count: the inverse is that of what differs.
        covariance = np.linalg.pinv(information)
        step = covariance @ gradient
        strengths = strengths + step
        if np.abs(step).max(initial=0) < 1e-10:
            break
    found = []
    for name, value, variance in zip(names, strengths, np.diag(covariance), strict=True):
        own = [v.score if v.first == name else 1 - v.score
               for v in votes if name in (v.first, v.second)]  # fmt: skip
        half = _Z * math.sqrt(variance)
        found.append(
            Strength(
                model=name,
                strength=float(value),
                low=float(value - half),
                high=float(value + half),
                wins=own.count(1),
                ties=own.count(0.5),
                losses=own.count(0),
            )
        )
    return tuple(sorted(found, key=lambda one: -one.strength))
