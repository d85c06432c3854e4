"""The gate between a trained model and its alias: one record for each rule, which says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from sunloom.config.llm import EvaluationConfig, LlmRecipe

CLOSED = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
"""Of records that are read back from files."""


@dataclass(frozen=True, config=CLOSED)
class RuleOutcome:
    """What one rule of a gate says.

    Attributes:
        rule: Key of the rule in the recipe.
        figure: What it looks at.
        value: What that was; None where it has no score.
        bound: What the rule allows.
        margin: Allowance for chance that was taken off the value, or that the interval of 95 % is.
        passed: Whether the rule holds.
        reason: Why it does not, in words; empty where it does.
    """

    rule: str
    figure: str
    value: float | None
    bound: float
    margin: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True, config=CLOSED)
class GateDecision:
    """What a gate decided, and why.

    Attributes:
        passed: Whether every rule holds.
        alias: What moves to the version if they do.
        rules: Each of them.
    """

    passed: bool
    alias: str
    rules: tuple[RuleOutcome, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What does not hold, in words."""
        return tuple(rule.reason for rule in self.rules if not rule.passed)


def decide(metrics: Mapping[str, Any], config: EvaluationConfig, alias: str) -> GateDecision:
    """Decide whether an alias may move to a version.

    Args:
        metrics: As the registry keeps them: ``ComparedScores``, and ``figures`` by name.
        config: The bars.
        alias: What would move.
    """
    rules = (
        *_turn_rules(metrics, config),
        *_loss_rules(metrics, config),
        *_bar_rules(metrics, config),
        *_regression_rules(metrics, config),
    )
    return GateDecision(all(rule.passed for rule in rules), alias, rules)


def decide_quantized(metrics: Mapping[str, Any], recipe: LlmRecipe) -> GateDecision:
    """Decide whether an alias may move to a quantised version.

    Args:
        metrics: ``ComparedScores`` with both perplexities; ``base`` is the original.
        recipe: ``quantization`` has the margins, ``evaluation`` that of the benchmarks.
    """
    margins, evaluation = recipe.quantization, recipe.evaluation
    rules = (
        *(
            _judge_regression("max_score_drop", name, figure, margins.max_score_drop)
            for name, figure in (metrics.get("figures") or {}).items()
            if name.startswith(("exact_match.", "tasks."))
        ),
        _judge_perplexity(metrics, margins.max_perplexity_ratio),
        *_regression_rules(metrics, evaluation),
    )
    return GateDecision(all(rule.passed for rule in rules), recipe.output.alias, rules)


def _judge_perplexity(metrics: Mapping[str, Any], most: float) -> RuleOutcome:
    before, after = metrics.get("base_perplexity"), metrics.get("adapter_perplexity")
    reason = ""
    if before is None or after is None:
        reason = "the held-out conversations have no assistant turn, so there is no perplexity"
    elif not after <= most * before:
        reason = f"perplexity {after:.4g} is above {most:g} times the original's {before:.4g}"
    bound = most if before is None else most * before
    return _conclude("max_perplexity_ratio", "perplexity", after, bound, reason)


def _conclude(
    rule: str, figure: str, value: float | None, bound: float, reason: str, *, margin: float = 0.0
) -> RuleOutcome:
    """The outcome of a rule, which holds where there is no reason against it."""
    return RuleOutcome(
        rule=rule, figure=figure, value=value, bound=bound, margin=margin, passed=not reason,
        reason=reason,
    )  # fmt: skip


def _turn_rules(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[RuleOutcome]:
    if metrics.get("adapter_preference_accuracy") is not None:
        yield from _preference_rules(metrics, config)
        return
    if metrics.get("adapter_reward") is not None:
        yield from _reward_rules(metrics, config)
        return
    bars = {"min_exact_match": "adapter_exact_match", "min_whole": "adapter_whole"}
    for key, name in bars.items():
        bar = getattr(config, key)
        if bar is None:
            continue
        score, reason = metrics.get(name), ""
        if score is None:
            reason = (
                f"{name} has no score, as no held-out turn is of its kind "
                f"(evaluation.{key}=null leaves it out)"
            )
        elif score < bar:
            reason = f"{name} {score:.3f} is below {bar:.3f}"
        yield _conclude(key, name, score, bar, reason)


def _preference_rules(
    metrics: Mapping[str, Any], config: EvaluationConfig
) -> Iterator[RuleOutcome]:
    bar, name = config.min_preference_accuracy, "adapter_preference_accuracy"
    accuracy, error = metrics[name], metrics["preference_error"]
    if bar is None:
        return
    reason = ""
    if accuracy - error < bar:
        reason = f"{name} {accuracy:.3f}, less its standard error {error:.3f}, is below {bar:.3f}"
    yield _conclude("min_preference_accuracy", name, accuracy, bar, reason, margin=error)


def _reward_rules(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[RuleOutcome]:
    before, after, name = metrics["base_reward"], metrics["adapter_reward"], "adapter_reward"
    error, gain_error = metrics["reward_error"], metrics["reward_gain_error"]
    if config.min_reward is not None:
        reason = ""
        if not after - error >= config.min_reward:
            reason = (
                f"{name} {after:.3f}, less its standard error {error:.3f}, is below "
                f"{config.min_reward:.3f}"
            )
        yield _conclude("min_reward", name, after, config.min_reward, reason, margin=error)
    if (least := config.min_reward_gain) is not None:
        reason = ""
        if not after - before - gain_error > least:
            reason = (
                f"{name} {after:.3f} is {after - before:.3f} above the start's {before:.3f}, "
                f"which less its standard error {gain_error:.3f} is not above {least:.3f}"
            )
        yield _conclude("min_reward_gain", name, after, before + least, reason, margin=gain_error)


def _loss_rules(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[RuleOutcome]:
    before, after = metrics.get("base_loss"), metrics.get("adapter_loss")
    most = config.max_loss_ratio
    # Versions from before the loss was measured have none.
    if most is None or before is None or after is None:
        return
    reason = ""
    # A loss that is not a number is not at most anything.
    if not after <= most * before:
        reason = f"adapter_loss {after:.3f} is above {most:g} times the base's {before:.3f}"
    yield _conclude("max_loss_ratio", "adapter_loss", after, most * before, reason)


def _bar_rules(metrics: Mapping[str, Any], config: EvaluationConfig) -> Iterator[RuleOutcome]:
    """Bars of single figures; those of a key that begins with ``max`` are upper ones."""
    figures = metrics.get("figures") or {}
    for key, name, bound in _list_bars(config):
        if bound is None:
            continue
        score, is_upper, reason = figures.get(name, {}).get("trained"), key.startswith("max"), ""
        if score is None:
            reason = _say_unjudged(name, figures)
        elif not (score <= bound if is_upper else score >= bound):
            reason = f"{name} {score:.3f} is {'above' if is_upper else 'below'} {bound:.3f}"
        yield _conclude(key, name, score, bound, reason)


def _list_bars(config: EvaluationConfig) -> Iterator[tuple[str, str, float | None]]:
    """Key, figure and bound of each bar that a recipe may name."""
    for task in config.custom_tasks:
        yield "min_score", f"tasks.{task.name}", task.min_score
    for judge in config.safety:
        for field in type(judge).model_fields:
            side, _, figure = field.partition("_")
            if side in ("min", "max"):
                yield field, f"safety.{judge.name}.{figure}", getattr(judge, field)
    if config.llm_judge is not None:
        yield "min_win_rate", "judge.win_rate", config.llm_judge.min_win_rate


def _regression_rules(
    metrics: Mapping[str, Any], config: EvaluationConfig
) -> Iterator[RuleOutcome]:
    """A loss against the start whose interval of 95 % lies beyond the rule's margin."""
    figures = metrics.get("figures") or {}
    patterns = [("no_regression", rule.figure, rule.margin) for rule in config.no_regression]
    if config.max_benchmark_drop is not None and config.benchmarks:
        patterns.append(("max_benchmark_drop", "benchmarks.*", config.max_benchmark_drop))
    for key, pattern, most in patterns:
        names = [name for name in figures if fnmatchcase(name, pattern)]
        for name in names:
            yield _judge_regression(key, name, figures[name], most)
        if not names:
            reason = _say_unjudged(pattern, figures)
            yield _conclude(key, pattern, None, most, reason)


def _say_unjudged(name: str, figures: Mapping[str, Any]) -> str:
    if not figures:
        return f"{name} has no score: the version was registered before it was kept"
    return f"{name} has no score; there are {', '.join(figures)}"


def _judge_regression(key: str, name: str, figure: Mapping[str, Any], most: float) -> RuleOutcome:
    before, after = figure["start"], figure["trained"]
    if before is None or after is None:
        return _conclude(key, name, after, most, f"{name} has no score of both models")
    drop, least = after - before, figure["low"]
    if not figure["is_lower_better"]:
        drop, least = -drop, None if figure["high"] is None else -figure["high"]
    # Without an interval there is no allowance for chance.
    least = drop if least is None else least
    # A figure that is not a number is not at most anything.
    reason = (
        ""
        if least <= most
        else f"{name} ({figure['metric']}) is {after:.3f} on {figure['rows']} rows, and was "
        f"{before:.3f}: worse by {drop:.3f}, more than {most:g} beyond chance (95 %: {least:.3f})"
    )
    return _conclude(key, name, after, most, reason, margin=drop - least)
