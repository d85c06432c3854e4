"""The gate between a trained model and its alias: scores beside its start's, and their bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sunloom.config.llm import EvaluationConfig
from sunloom.llm.benchmarks import compare_benchmarks, drop_is_above
from sunloom.llm.judging import ModelScores


@dataclass(frozen=True)
class ComparedScores:
    """Scores of a trained model beside those of its start, on the same conversations.

    ``adapter`` is the trained model, whatever the method; ``base`` is what it was trained from.

    A share of turns is None where the conversations have no such turn.

    Attributes:
        tasks: By name: ``metric``, ``base`` and ``adapter``.
        benchmarks: By name: ``BenchmarkComparison``.
        base_preference_accuracy: Of what training started from; None where no preferences are
            learned.
        adapter_preference_accuracy: Share of held-out preferences in their right order.
        preference_error: Its standard error.
        preference_margin: Mean of the chosen completions' rewards less that of the rejected ones'.
        base_reward: Mean on held-out prompts of what training started from; None where completions
            are not rewarded.
        adapter_reward: Of the result.
        reward_error: Its standard error.
        reward_gain_error: Standard error of what it has risen by, on the same prompts.
    """

    held_out: int
    base_exact_match: float | None
    adapter_exact_match: float | None
    base_answers: float | None
    adapter_answers: float | None
    adapter_whole: float | None
    base_loss: float | None
    adapter_loss: float | None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    benchmarks: dict[str, Any] = field(default_factory=dict)
    base_preference_accuracy: float | None = None
    adapter_preference_accuracy: float | None = None
    preference_error: float | None = None
    preference_margin: float | None = None
    base_reward: float | None = None
    adapter_reward: float | None = None
    reward_error: float | None = None
    reward_gain_error: float | None = None


def compare_scores(base: ModelScores, adapter: ModelScores) -> ComparedScores:
    """A trained model's scores beside its start's.

    Args:
        base: Of what training started from.
        adapter: Of its result, judged by the same.
    """
    before, after, judged = base.exact_match, adapter.exact_match, adapter.preferences
    benchmarks = {}
    if base.benchmarks is not None and adapter.benchmarks is not None:
        benchmarks = compare_benchmarks(base.benchmarks.scores, adapter.benchmarks.scores)
    rewards: dict[str, float] = {}
    if base.rewards is not None and adapter.rewards is not None:
        mean, error = adapter.rewards.mean
        rewards = {
            "base_reward": base.rewards.mean[0],
            "adapter_reward": mean,
            "reward_error": error,
            "reward_gain_error": adapter.rewards.gain_over(base.rewards)[1],
        }
    return ComparedScores(
        held_out=after.held_out,
        base_exact_match=before.calls,
        adapter_exact_match=after.calls,
        base_answers=before.answers,
        adapter_answers=after.answers,
        adapter_whole=after.whole,
        base_loss=before.loss,
        adapter_loss=after.loss,
        tasks={
            name: {
                "metric": score.metric,
                "base": base.tasks[name].score,
                "adapter": score.score,
                "standard_error": score.standard_error,
            }
            for name, score in adapter.tasks.items()
        },
        benchmarks=benchmarks,
        base_preference_accuracy=base.preferences.accuracy if base.preferences else None,
        adapter_preference_accuracy=judged.accuracy if judged else None,
        preference_error=judged.standard_error if judged else None,
        preference_margin=judged.margin if judged else None,
        **rewards,
    )


def gate_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> tuple[str, ...]:
    """What of a trained model's gate does not hold, in words."""
    return (
        *_turn_failures(metrics, config),
        *_loss_failures(metrics, config),
        *_task_failures(metrics, config),
        *_benchmark_failures(metrics, config),
    )


def _turn_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    if metrics.get("adapter_preference_accuracy") is not None:
        yield from _preference_failures(metrics, config)
        return
    if metrics.get("adapter_reward") is not None:
        yield from _reward_failures(metrics, config)
        return
    bars = {"adapter_exact_match": config.min_exact_match, "adapter_whole": config.min_whole}
    for name, bar in bars.items():
        score = metrics.get(name)
        if bar is None:
            continue
        if score is None:
            key = "min_exact_match" if name == "adapter_exact_match" else "min_whole"
            yield (
                f"{name} has no score, as no held-out turn is of its kind "
                f"(evaluation.{key}=null leaves it out)"
            )
        elif score < bar:
            yield f"{name} {score:.3f} is below {bar:.3f}"


def _preference_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    bar, accuracy = config.min_preference_accuracy, metrics["adapter_preference_accuracy"]
    error = metrics["preference_error"]
    if bar is not None and accuracy - error < bar:
        yield (
            f"adapter_preference_accuracy {accuracy:.3f}, less its standard error {error:.3f}, is "
            f"below {bar:.3f}"
        )


def _reward_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    before, after = metrics["base_reward"], metrics["adapter_reward"]
    error, gain_error = metrics["reward_error"], metrics["reward_gain_error"]
    if config.min_reward is not None and after - error < config.min_reward:
        yield (
            f"adapter_reward {after:.3f}, less its standard error {error:.3f}, is below "
            f"{config.min_reward:.3f}"
        )
    least = config.min_reward_gain
    if least is not None and after - before - gain_error <= least:
        yield (
            f"adapter_reward {after:.3f} is {after - before:.3f} above the start's {before:.3f}, "
            f"which less its standard error {gain_error:.3f} is not above {least:.3f}"
        )


def _loss_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    before, after = metrics.get("base_loss"), metrics.get("adapter_loss")
    most = config.max_loss_ratio
    # Versions from before the loss was measured have none.
    if most is not None and before is not None and after is not None and after > most * before:
        yield f"adapter_loss {after:.3f} is above {most:g} times the base's {before:.3f}"


def _task_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    scores = metrics.get("tasks") or {}
    for task in config.custom_tasks:
        if task.min_score is None:
            continue
        score = scores.get(task.name, {}).get("adapter")
        if score is None:
            yield f"the task {task.name} has no score"
        elif score < task.min_score:
            yield f"the task {task.name} has {score:.3f}, below {task.min_score:.3f}"


def _benchmark_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[str]:
    most = config.max_benchmark_drop
    for name, figures in (metrics.get("benchmarks") or {}).items():
        if most is not None and drop_is_above(figures["drop"], figures["drop_error"], most):
            yield (
                f"the benchmark {name} has {figures['metric']} {figures['adapter']:.3f} on "
                f"{figures['examples']} examples, the base {figures['base']:.3f}: more than "
                f"{most:g} less, beyond chance"
            )
