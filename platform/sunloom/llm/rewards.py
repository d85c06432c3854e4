"""Rewards of completions: a recipe's own functions and metrics, weighted and summed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sunloom.config.llm import JsonSchema, Regex, RewardTerm
from sunloom.core.plugins import load_plugin
from sunloom.errors import PluginError, UsageError
from sunloom.evaluation.measurements import JudgedText, Measurement, measure_texts
from sunloom.llm.conversations import Conversation, Message, call_message
from sunloom.llm.custom_tasks import METRICS
from sunloom.llm.encoding import render
from sunloom.llm.evaluation import Generate, parse_calls

REWARD_GROUP = "sunloom.rewards"
_KEY = "training.objective.rewards"
Columns = Mapping[str, Any]


class RewardSum:
    """The weighted sum of a recipe's rewards.

    Args:
        terms: Of the recipe.

    Raises:
        NotFoundError: No package offers a function.
        UsageError: A metric cannot be loaded.
    """

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self._terms = [(term, _load_term(term)) for term in terms]

    def __call__(self, prompt: Sequence[Message], columns: Columns, completion: str) -> float:
        """The reward of one completion.

        Args:
            prompt: Its messages.
            columns: The others of its row.
            completion: What the model wrote.

        Raises:
            PluginError: A function failed, or gave no finite number.
        """
        total = 0.0
        for term, reward in self._terms:
            try:
                value = reward(prompt, columns, completion)
            except Exception as error:
                raise PluginError(
                    f"The reward {term.name or term.column!r} failed on {completion[:80]!r}: "
                    f"{type(error).__name__}: {error}",
                    param=_KEY,
                ) from error
            if not isinstance(value, bool | int | float) or not math.isfinite(value):
                raise PluginError(
                    f"The reward {term.name!r} gave {value!r}, not a finite number.", param=_KEY
                )
            total += term.weight * value
        return total

    def require_columns(self, conversation: Conversation) -> None:
        """Refuse a row without a column that a metric compares with.

        Raises:
            UsageError: It has none.
        """
        columns = columns_of(conversation)
        for term, _ in self._terms:
            if _reads_column(term) and columns.get(term.column) is None:
                where = f"{conversation.source}:{conversation.position}"
                raise UsageError(
                    f"{where} has no column {term.column!r}, which a reward compares with; it has "
                    f"{', '.join(columns) or 'none'} beside the prompt.",
                    f"Name another in {_KEY}.column, or add it.",
                    _KEY,
                )


def columns_of(conversation: Conversation) -> Columns:
    """What the row of a prompt has beside it."""
    return conversation.feedback.columns if conversation.feedback else {}


def _reads_column(term: RewardTerm) -> bool:
    return term.metric is not None and not isinstance(term.metric, JsonSchema | Regex)


def _load_term(term: RewardTerm) -> Callable[[Sequence[Message], Columns, str], Any]:
    if term.metric is None:
        function = load_plugin(REWARD_GROUP, str(term.name))
        return lambda prompt, columns, completion: function(
            completion, **{**columns, "prompt": list(prompt)}
        )
    score = METRICS[type(term.metric)](term.metric)
    return lambda _prompt, columns, completion: score(
        _expected_message(columns.get(term.column)), completion
    )


def _expected_message(value: Any) -> Message:
    """A column's value as the answer that is compared with: calls, a message or a text."""
    if isinstance(value, str) and (calls := parse_calls(value)):
        value = [{"name": name, "arguments": arguments} for name, arguments in calls]
    if isinstance(value, dict) and "role" not in value and "name" in value:
        value = [value]
    if isinstance(value, list):
        made = [call_message(one["name"], one.get("arguments") or {}) for one in value]
        return {"role": "assistant", "tool_calls": [c for m in made for c in m["tool_calls"]]}
    if isinstance(value, dict):
        return value
    return {"role": "assistant", "content": "" if value is None else str(value)}


@dataclass(frozen=True)
class RewardScores:
    """Rewards of a model's greedy completions of held-out prompts.

    Attributes:
        examples: Every one of them; ``score`` is the reward.
    """

    examples: tuple[JudgedText, ...]

    @property
    def mean(self) -> tuple[float, float]:
        """Mean reward, and its standard error."""
        return mean_and_error([example.score for example in self.examples])

    def gain_over(self, start: RewardScores) -> tuple[float, float]:
        """Mean of what each prompt's reward has risen by, and its standard error."""
        pairs = zip(self.examples, start.examples, strict=True)
        return mean_and_error([after.score - before.score for after, before in pairs])

    def measure(self) -> Measurement:
        """The figure ``reward``."""
        return measure_texts("reward", "reward of a greedy completion", self.examples)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is 0.

    Args:
        values: At least one.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, 0.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def judge_rewards(
    terms: Sequence[RewardTerm],
    conversations: Sequence[Conversation],
    generate: Generate,
    tokenizer: Any,
) -> RewardScores:
    """Reward a model's completions of held-out prompts.

    Args:
        terms: Of the recipe.
        conversations: The prompts.
        generate: Continues them.
        tokenizer: Renders them.
    """
    rewards = RewardSum(terms)
    texts = generate([render(tokenizer, one, prompt=True) for one in conversations])
    return RewardScores(
        tuple(
            JudgedText(
                question=str(one.messages[-1].get("content") or ""),
                expected=json.dumps(columns_of(one), ensure_ascii=False),
                generated=text,
                score=rewards(one.messages, columns_of(one), text),
            )
            for one, text in zip(conversations, texts, strict=True)
        )
    )
