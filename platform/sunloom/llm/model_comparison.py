"""Comparison of judged models: what was trained with its start, and registered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sunloom.config.llm import LlmRecipe
from sunloom.core.files import write_atomic
from sunloom.core.model_registry import (
    ModelRegistry,
    ModelVersion,
    TrainingResult,
    open_registry,
)
from sunloom.errors import UsageError
from sunloom.evaluation.gate import GateDecision
from sunloom.evaluation.intervals import Estimate, MeanDifference
from sunloom.evaluation.report import EvalReport, build_report, decide_in, read_report
from sunloom.evaluation.report_page import render_page
from sunloom.llm.base_models import resolve_model
from sunloom.llm.conversation_split import held_out_conversations
from sunloom.llm.conversations import Conversation
from sunloom.llm.judging import Judges, ModelScores, judge_model, load_judges
from sunloom.llm.resuming import SAMPLES

REPORT, PAGE = "evaluation.json", "evaluation.html"
"""Files in the folder of a run whose result was judged."""


@dataclass(frozen=True)
class ComparedScores:
    """Scores of a trained model beside those of its start, on the same conversations.

    ``adapter`` is the trained model, whatever the method; ``base`` is what it was trained from.

    A share of turns is None where the conversations have no such turn.

    Attributes:
        figures: Every figure of the report, without its rows.
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
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    base_preference_accuracy: float | None = None
    adapter_preference_accuracy: float | None = None
    preference_error: float | None = None
    preference_margin: float | None = None
    base_reward: float | None = None
    adapter_reward: float | None = None
    reward_error: float | None = None
    reward_gain_error: float | None = None


@dataclass(frozen=True)
class ModelEvaluation:
    """Scores of a registered model, beside others where some were named.

    Attributes:
        model: ``name@version``.
        exact_match: Share of tool-calling turns that are exact; None without any.
        answers: Share of plain turns that are exact; None without any.
        whole: Share of conversations with every turn right.
        held_out: Number of conversations.
        loss: Mean loss of a token that the assistant wrote.
        report: JSON file with every figure, its rows and texts.
        page: The same to look at.
        figures: By name and model: value, interval, and difference from the first model.
        preference_accuracy: Share of held-out preferences that it orders rightly, where the recipe
            learns from these; against the model that it was trained from.
    """

    model: str
    exact_match: float | None
    answers: float | None
    whole: float | None
    held_out: int
    loss: float | None
    report: str
    page: str
    figures: dict[str, dict[str, Any]]
    preference_accuracy: float | None = None


def compare_scores(base: ModelScores, adapter: ModelScores, report: EvalReport) -> ComparedScores:
    """A trained model's scores beside its start's.

    Args:
        base: Of what training started from.
        adapter: Of its result, judged by the same.
        report: Of both.
    """
    before, after, judged = base.exact_match, adapter.exact_match, adapter.preferences
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
        figures=report.summarise(),
        base_preference_accuracy=base.preferences.accuracy if base.preferences else None,
        adapter_preference_accuracy=judged.accuracy if judged else None,
        preference_error=judged.standard_error if judged else None,
        preference_margin=judged.margin if judged else None,
        **rewards,
    )


def promote_judged(
    registry: ModelRegistry,
    version: ModelVersion,
    decision: GateDecision,
    folder: Path,
    *,
    reused: bool = False,
) -> TrainingResult:
    """Keep a gate's decision with the version and in its report, and promote if it passed.

    Args:
        registry: Of the version.
        version: Judged and registered.
        decision: On it.
        folder: Of the run that made it.
        reused: Whether that was an earlier one, whose folder may be gone.
    """
    # On record before the alias moves; without a rule nothing was decided.
    if decision.rules:
        version = registry.add_metrics(version, {"gate": asdict(decision)})
    if (path := folder / REPORT).is_file():
        write_report(decide_in(read_report(path), decision), path, folder / PAGE)
    names = {"report": REPORT, "report_page": PAGE, "samples": SAMPLES, "loss_plot": "loss.png"}
    return TrainingResult(
        version=version,
        promoted=registry.promote_if_passed(version, decision.alias, decision.failures),
        reused=reused,
        failures=decision.failures,
        files={key: str(folder / name) for key, name in names.items() if (folder / name).is_file()},
    )


def report_scores(title: str, models: Mapping[str, ModelScores], judges: Judges) -> EvalReport:
    """A report of judged models; the language model among the judges is asked now.

    Args:
        title: Of its page.
        models: By name, the first being what the others are compared with.
        judges: What they were judged by.

    Raises:
        DataError: The language model's verdicts cannot be read.
        ServingError: It does not answer.
    """
    measured = {name: scores.measure() for name, scores in models.items()}
    judge = None
    if judges.llm_judge is not None:
        verdicts = judges.llm_judge.judge({name: s.answers for name, s in models.items()})
        judge = verdicts.report
        for name, found in verdicts.measurements.items():
            measured[name] += found
    return build_report(
        title,
        measured,
        held_out=next(iter(models.values())).exact_match.held_out,
        judge=judge,
        harness={n: s.benchmarks.report for n, s in models.items() if s.benchmarks is not None},
    )


def write_report(report: EvalReport, path: Path, page: Path) -> None:
    """Write a report's JSON and its page."""
    report.save(path)
    write_atomic(page, render_page(report))


def evaluate_registered(
    recipe: LlmRecipe,
    model: str | None = None,
    others: Sequence[str] = (),
    page: Path | None = None,
) -> ModelEvaluation:
    """Judge a registered adapter or base, and others on the same rows.

    Args:
        recipe: Says by what; ``output.name`` is the model to judge where none is named.
        model: The model to judge, such as ``name`` or ``name@3``.
        others: Further ones, compared with it.
        page: Where the report's page is written; beside its JSON where it is not said.

    Raises:
        NotFoundError: The registry has no such model.
        DataError: There is nothing to judge on.
        UsageError: A task or a benchmark cannot be loaded, or a model is named twice.
    """
    registry = open_registry(recipe)
    tenant = recipe.output.tenant
    versions = [registry.get(ref, tenant) for ref in (model or recipe.output.name, *others)]
    refs = [version.ref for version in versions]
    if len({*refs}) < len(refs):
        raise UsageError(f"A model is named twice: {', '.join(refs)}.", param="compare")
    conversations = held_out_conversations(recipe)
    judges = load_judges(recipe)
    scores = {
        version.ref: _judge_version(recipe, registry, judges, conversations, version)
        for version in versions
    }
    report = report_scores(" and ".join(refs), scores, judges)
    folder, first = recipe.paths.outputs / "llm" / "evaluation", versions[0]
    stem = "-".join(f"{version.name}-{version.version}" for version in versions[:3])
    path = folder / f"{stem}.json"
    page = page or path.with_suffix(".html")
    write_report(report, path, page)
    judged = scores[first.ref]
    exact = judged.exact_match
    return ModelEvaluation(
        model=first.ref,
        exact_match=exact.calls,
        answers=exact.answers,
        whole=exact.whole,
        held_out=exact.held_out,
        loss=exact.loss,
        report=str(path),
        page=str(page),
        figures=_list_figures(report),
        preference_accuracy=judged.preferences.accuracy if judged.preferences else None,
    )


def _judge_version(
    recipe: LlmRecipe,
    registry: ModelRegistry,
    judges: Judges,
    conversations: Sequence[Conversation],
    version: ModelVersion,
) -> ModelScores:
    folder = registry.path(version)
    location: Any = folder
    adapter = start = None
    # The version that it was trained on; the recipe's base may have a newer one by now.
    base = version.lineage.get("base")
    origin = recipe.model.model_copy(update={"base_model": base})
    if (folder / "adapter_config.json").is_file():
        (location, _), adapter = resolve_model(origin, registry), folder
    if recipe.learns_preferences and base is not None:
        earlier = version.lineage.get("start")
        before = registry.path(registry.get(str(earlier))) if earlier else None
        start = judge_model(
            recipe, Judges(), conversations, resolve_model(origin, registry)[0], adapter=before
        )
    return judge_model(recipe, judges, conversations, str(location), adapter=adapter, start=start)


def _list_figures(report: EvalReport) -> dict[str, dict[str, Any]]:
    """Value, interval and difference by figure and model, as plain data."""
    listed: dict[str, dict[str, Any]] = {}
    for figure in report.figures:
        listed[figure.name] = {}
        for name, score in zip(report.models, figure.scores, strict=True):
            found, gap = score.estimate, score.difference
            plain = _plain(found) if found else {}
            listed[figure.name][name] = plain | ({"difference": _plain(gap)} if gap else {})
    return listed


def _plain(found: Estimate | MeanDifference) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}
