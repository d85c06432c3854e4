"""Objectives: what each minimises, what it learns from, and whether it looks back at its start.

The losses are those of TRL 1.16 (``DPOTrainer``, ``KTOTrainer``, ``ORPOTrainer``,
``RewardTrainer``), computed from log-probabilities of whole completions; a step averages them over
all of its rows, whatever the number of workers and accumulated batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sunloom.config.llm import Dpo, Grpo, Ipo, Kto, Orpo, Reward, Sft, TrainingObjective
from sunloom.errors import UsageError
from sunloom.llm.conversation_formats import FORMATS, PREFERENCE, PROMPT, UNPAIRED
from sunloom.llm.conversations import TEXT

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Completions:
    """A batch of completions as the model under training scores them; all ``[B]``.

    Attributes:
        first: Log-probability of the chosen completion of a pair, or of one with a label; or what a
            reward model gives it.
        second: Of the rejected one; empty where there are no pairs.
        first_start: What the model that training starts from gave the first.
        second_start: And the second.
        first_tokens: Tokens of the first.
        second_tokens: Tokens of the second.
        is_desirable: The labels, where there are no pairs.
        kl: How far the model has moved on completions of other prompts, a number of at least 0.
    """

    first: torch.Tensor
    second: torch.Tensor
    first_start: torch.Tensor
    second_start: torch.Tensor
    first_tokens: torch.Tensor
    second_tokens: torch.Tensor
    is_desirable: torch.Tensor
    kl: torch.Tensor


def dpo_loss(objective: Dpo, batch: Completions) -> torch.Tensor:
    """Logistic loss of the rewards' difference, ``[B]``; robust to a share of wrong pairs."""
    from torch.nn.functional import logsigmoid

    first, second = dpo_rewards(objective, batch)
    wrong = objective.label_smoothing
    losses = -(1 - wrong) * logsigmoid(first - second) + wrong * logsigmoid(second - first)
    return losses / (1 - 2 * wrong)


def ipo_loss(objective: Ipo, batch: Completions) -> torch.Tensor:
    """Squared distance of the log-ratios' difference, a token, from its margin ``[B]``."""
    first = (batch.first - batch.first_start) / batch.first_tokens.clamp(min=1)
    second = (batch.second - batch.second_start) / batch.second_tokens.clamp(min=1)
    return (first - second - 1 / (2 * objective.beta)) ** 2


def kto_loss(objective: Kto, batch: Completions) -> torch.Tensor:
    """Value of a completion against the mean shift of the model, weighted by its label ``[B]``."""
    import torch

    shift = objective.beta * (batch.first - batch.first_start - batch.kl)
    desirable = objective.desirable_weight * (1 - torch.sigmoid(shift))
    undesirable = objective.undesirable_weight * (1 - torch.sigmoid(-shift))
    return torch.where(batch.is_desirable, desirable, undesirable)


def orpo_loss(objective: Orpo, batch: Completions) -> torch.Tensor:
    """Logistic loss of the odds ratio of the mean log-probabilities ``[B]``."""
    from torch.nn.functional import logsigmoid

    first = batch.first / batch.first_tokens.clamp(min=1)
    second = batch.second / batch.second_tokens.clamp(min=1)
    log_odds = (first - second) - (_log_of_rest(first) - _log_of_rest(second))
    return -objective.beta * logsigmoid(log_odds)


def reward_loss(objective: Reward, batch: Completions) -> torch.Tensor:
    """Bradley-Terry loss of the scores ``[B]``."""
    from torch.nn.functional import logsigmoid

    losses = -logsigmoid(batch.first - batch.second)
    if objective.center_rewards_coefficient is None:
        return losses
    return losses + objective.center_rewards_coefficient * (batch.first + batch.second) ** 2


def _log_of_rest(logs: torch.Tensor) -> torch.Tensor:
    """``log(1 - exp(x))`` without cancellation."""
    import torch

    small, large = torch.log1p(-torch.exp(logs)), torch.log(-torch.expm1(logs))
    return torch.where(logs < -0.6931471805599453, small, large)


def dpo_rewards(
    objective: Dpo | Ipo | Kto, batch: Completions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards that the log-ratios to the start stand for, of both completions ``[B]``."""
    first = objective.beta * (batch.first - batch.first_start)
    return first, objective.beta * (batch.second - batch.second_start)


def orpo_rewards(objective: Orpo, batch: Completions) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean log-probabilities of both completions, scaled ``[B]``."""
    first = objective.beta * batch.first / batch.first_tokens.clamp(min=1)
    return first, objective.beta * batch.second / batch.second_tokens.clamp(min=1)


def scored_rewards(_objective: Reward, batch: Completions) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores themselves ``[B]``."""
    return batch.first, batch.second


@dataclass(frozen=True)
class ObjectiveKind:
    """A line of the table.

    Attributes:
        formats: Of the rows that it learns from.
        loss: Loss of each pair or completion; None is the next token's.
        rewards: What the completions are worth to the model, for progress and the judge.
        needs_reference: Whether the loss compares with the model that training starts from.
        needs_kl: Whether it does so on completions of other prompts, too.
        learns_chosen: Whether the next tokens of the chosen text are learned beside.
        has_head: Whether a head on the last token scores a text, and not its log-probability.
    """

    formats: tuple[str, ...]
    loss: Callable[[Any, Completions], torch.Tensor] | None = None
    rewards: Callable[[Any, Completions], tuple[torch.Tensor, torch.Tensor]] = dpo_rewards
    needs_reference: bool = False
    needs_kl: bool = False
    learns_chosen: bool = False
    has_head: bool = False


OBJECTIVES: Mapping[type[TrainingObjective], ObjectiveKind] = {
    Sft: ObjectiveKind((*FORMATS, TEXT)),
    Dpo: ObjectiveKind((PREFERENCE,), dpo_loss, needs_reference=True),
    Ipo: ObjectiveKind((PREFERENCE,), ipo_loss, needs_reference=True),
    Kto: ObjectiveKind((UNPAIRED,), kto_loss, needs_reference=True, needs_kl=True),
    Orpo: ObjectiveKind((PREFERENCE,), orpo_loss, orpo_rewards, learns_chosen=True),
    Reward: ObjectiveKind((PREFERENCE,), reward_loss, scored_rewards, has_head=True),
    # Its loss is of tokens, and in a module of its own.
    Grpo: ObjectiveKind((PROMPT,)),
}
"""By the section ``training.objective``."""


def require_formats(formats: Iterable[tuple[str, str]], objective: TrainingObjective) -> None:
    """Refuse files whose rows an objective does not learn from.

    Args:
        formats: Each file and its format; "" where it has no rows.
        objective: What is minimised.

    Raises:
        UsageError: A file is of another format.
    """
    known = OBJECTIVES[type(objective)].formats
    for file, format in formats:
        if format in known or format in ("", "auto"):
            continue
        others = [str(kind.model_fields["type"].default) for kind, row in OBJECTIVES.items()
                  if format in row.formats]  # fmt: skip
        raise UsageError(
            f"{file} has rows of the format {format!r}, and training.objective.type "
            f"{objective.type} learns from {', '.join(known)}.",
            f"Learning from {format!r}: {', '.join(others) or 'none'}. Where the format was found "
            "from the rows, data.train can name another.",
            "training.objective",
        )
