"""Judging of a model: held-out conversations, tasks of one's own, public benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sunloom.config.llm import Grpo, LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import DataError
from sunloom.llm.base_models import resolve_model
from sunloom.llm.benchmarks import BenchmarkResults, Benchmarks
from sunloom.llm.conversation_split import held_out_conversations
from sunloom.llm.conversations import Conversation
from sunloom.llm.custom_tasks import LoadedTask, TaskScore
from sunloom.llm.encoding import encode
from sunloom.llm.evaluation import ExactMatch, exact_match, greedy, mean_loss
from sunloom.llm.models import load_adapter, load_model, load_tokenizer
from sunloom.llm.preference_scores import PreferenceScores
from sunloom.llm.rewards import RewardScores, judge_rewards


@dataclass(frozen=True)
class Judges:
    """What a recipe judges by beside its held-out conversations, loaded and ready.

    Attributes:
        tasks: Files of one's own.
        benchmarks: Public ones; None where the recipe names none.
    """

    tasks: tuple[LoadedTask, ...] = ()
    benchmarks: Benchmarks | None = None


@dataclass(frozen=True)
class ModelScores:
    """All that a model was judged by.

    Attributes:
        exact_match: On the held-out conversations, with the loss.
        tasks: By name.
        benchmarks: The harness's.
        preferences: On held-out preferences, where these are learned.
        rewards: On held-out prompts, where completions are rewarded.
    """

    exact_match: ExactMatch
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    benchmarks: BenchmarkResults | None = None
    preferences: PreferenceScores | None = None
    rewards: RewardScores | None = None

    def save_report(self, path: Path) -> Path:
        """Write figures and examples of the held-out rows as JSON."""
        return (self.rewards or self.preferences or self.exact_match).save(path)

    def save_tasks(self, path: Path) -> None:
        """Write every example of the tasks as JSON; nothing where there is none."""
        if self.tasks:
            plain = {name: asdict(score) for name, score in self.tasks.items()}
            path.write_text(json.dumps(plain, indent=1))

    def save_benchmarks(self, path: Path) -> None:
        """Write the harness's results as JSON; nothing where there are none."""
        if self.benchmarks is not None:
            # The harness puts functions into the configuration of its tasks.
            path.write_text(json.dumps(self.benchmarks.report, indent=1, default=str))


@dataclass(frozen=True)
class ModelEvaluation:
    """Scores of a registered model.

    Attributes:
        model: ``name@version``.
        exact_match: Share of tool-calling turns that are exact; None without any.
        answers: Share of plain turns that are exact; None without any.
        whole: Share of conversations with every turn right.
        held_out: Number of conversations.
        loss: Mean loss of a token that the assistant wrote.
        report: JSON file with every judged turn.
        tasks: Mean score of each task of ``evaluation.custom_tasks``.
        benchmarks: Score of each benchmark of ``evaluation.benchmarks``.
        preference_accuracy: Share of held-out preferences that it orders rightly, where the recipe
            learns from these; against the model that it was trained from.
        reward: Mean on held-out prompts, where the recipe rewards completions.
    """

    model: str
    exact_match: float | None
    answers: float | None
    whole: float | None
    held_out: int
    loss: float | None
    report: str
    tasks: dict[str, float] = field(default_factory=dict)
    benchmarks: dict[str, float] = field(default_factory=dict)
    preference_accuracy: float | None = None
    reward: float | None = None


def load_judges(recipe: LlmRecipe) -> Judges:
    """Load all that a model will be judged by, so that nothing of it is missing afterwards.

    Raises:
        UsageError: A file, a schema, a benchmark or its data cannot be had.
        DataError: A task has nothing to judge on.
    """
    config = recipe.evaluation
    return Judges(
        tasks=tuple(LoadedTask(task, recipe.seed) for task in config.custom_tasks),
        benchmarks=Benchmarks(config) if config.benchmarks else None,
    )


def judge_model(
    recipe: LlmRecipe,
    judges: Judges,
    conversations: Sequence[Conversation],
    location: str,
    adapter: Path | None = None,
    start: ModelScores | None = None,
) -> ModelScores:
    """Judge a model, which is loaded once: in full precision, as it is served.

    Args:
        recipe: How the model is loaded, and how long a turn may be.
        judges: What it is judged by beside the conversations.
        conversations: To judge on.
        location: Folder or hub id of the base.
        adapter: Folder of an adapter on that base.
        start: Of the model that preferences were trained from; None where this is that model.
    """
    tokenizer = load_tokenizer(location, recipe.model)
    model = _load_for_judging(recipe, location)
    if adapter is not None:
        model = load_adapter(model, adapter)
    return _judge(recipe, judges, conversations, model, tokenizer, start=start)


def judge_adapter(
    recipe: LlmRecipe,
    judges: Judges,
    conversations: Sequence[Conversation],
    location: str,
    adapter: Path,
    start: Path | None = None,
) -> tuple[ModelScores, ModelScores]:
    """Judge what an adapter was trained from and then the adapter, with one load of the base.

    In this process: the served model took 2.3 times as long for the same turns (two cores, the
    demo's model, 32 clients; `benchmarks/llm/judge.py`), its start not counted.

    Args:
        recipe: How the model is loaded, and how long a turn may be.
        judges: What both are judged by beside the conversations.
        conversations: To judge on.
        location: Folder or hub id of the base.
        adapter: Folder of the adapter.
        start: Folder of the adapter that it was trained from; the base alone where there is none.
    """
    tokenizer = load_tokenizer(location, recipe.model)
    model = _load_for_judging(recipe, location)
    if start is not None:
        model = load_adapter(model, start)
    before = _judge(recipe, judges, conversations, model, tokenizer)
    if start is not None:
        model = model.unload()
    model = load_adapter(model, adapter)
    return before, _judge(recipe, judges, conversations, model, tokenizer, start=before)


def judge_tuned(
    recipe: LlmRecipe,
    judges: Judges,
    conversations: Sequence[Conversation],
    start: str,
    export: Path,
) -> tuple[ModelScores, ModelScores]:
    """Judge what a model was trained from and then the model, every parameter of which is its own.

    Args:
        recipe: How the models are loaded, and how long a turn may be.
        judges: What both are judged by beside the conversations.
        conversations: To judge on.
        start: Folder or hub id of the starting weights.
        export: Folder of the trained ones.
    """
    before = judge_model(recipe, judges, conversations, start)
    return before, judge_model(recipe, judges, conversations, str(export), start=before)


def _load_for_judging(recipe: LlmRecipe, location: str) -> Any:
    head_seed = recipe.seed if recipe.is_reward_model else None
    return load_model(location, recipe.model, head_seed=head_seed)


def _judge(
    recipe: LlmRecipe,
    judges: Judges,
    conversations: Sequence[Conversation],
    model: Any,
    tokenizer: Any,
    *,
    start: ModelScores | None = None,
) -> ModelScores:
    model.eval()
    generate = greedy(model, tokenizer, recipe.evaluation.max_new_tokens)
    rows = encode(tokenizer, conversations, recipe.longest_row)
    benchmarks, objective = judges.benchmarks, recipe.training.objective
    preferences = rewards = None
    if recipe.learns_preferences:
        # Torch loads here.
        from sunloom.llm.preference_judge import judge_preferences

        before = start.preferences.scores if start and start.preferences else None
        preferences = judge_preferences(
            model, rows, objective, tokenizer.pad_token_id, start=before
        )
        scores = ExactMatch(
            calls=None, answers=None, whole=None, held_out=len(rows), examples=(),
            loss=preferences.loss,
        )  # fmt: skip
    elif isinstance(objective, Grpo):
        answer = greedy(model, tokenizer, objective.max_completion_length)
        rewards = judge_rewards(objective.rewards, conversations, answer, tokenizer)
        scores = ExactMatch(calls=None, answers=None, whole=None, held_out=len(rows), examples=())
    else:
        scores = exact_match(generate, tokenizer, conversations)
        scores = replace(scores, loss=mean_loss(model, rows, tokenizer.pad_token_id))
    return ModelScores(
        exact_match=scores,
        preferences=preferences,
        rewards=rewards,
        tasks={judge.task.name: judge.run(generate, tokenizer) for judge in judges.tasks},
        benchmarks=benchmarks.run(model, tokenizer) if benchmarks is not None else None,
    )


def evaluate_registered(recipe: LlmRecipe) -> ModelEvaluation:
    """Judge a registered adapter or base.

    Args:
        recipe: ``output.name`` is the model to judge.

    Raises:
        NotFoundError: The registry has no such model.
        DataError: There is nothing to judge on.
        UsageError: A task or a benchmark cannot be loaded.
    """
    registry = open_registry(recipe)
    version = registry.get(recipe.output.name)
    conversations = held_out_conversations(recipe)
    if not conversations:
        raise DataError(
            "There is no held-out conversation to judge on.",
            "Raise data.held_out_share or evaluation.held_out, or add conversations.",
            "evaluation",
        )
    judges, folder = load_judges(recipe), registry.path(version)
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
    scores = judge_model(recipe, judges, conversations, str(location), adapter=adapter, start=start)
    reports = recipe.paths.outputs / "llm" / "evaluation"
    stem = f"{version.name}-{version.version}"
    exact = scores.exact_match
    report = scores.save_report(reports / f"{stem}.json")
    scores.save_tasks(reports / f"{stem}-tasks.json")
    scores.save_benchmarks(reports / f"{stem}-benchmarks.json")
    found = scores.benchmarks.scores if scores.benchmarks is not None else {}
    return ModelEvaluation(
        model=version.ref,
        exact_match=exact.calls,
        answers=exact.answers,
        whole=exact.whole,
        held_out=exact.held_out,
        loss=exact.loss,
        report=str(report),
        tasks={name: score.score for name, score in scores.tasks.items()},
        benchmarks={name: score.score for name, score in found.items()},
        preference_accuracy=scores.preferences.accuracy if scores.preferences else None,
        reward=scores.rewards.mean[0] if scores.rewards else None,
    )
