"""Judging of a model: held-out conversations, tasks of one's own, benchmarks, safety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sunloom.config.llm import Grpo, LlmRecipe
from sunloom.evaluation.llm_judge import LlmJudgment
from sunloom.evaluation.measurements import JudgedText, Measurement
from sunloom.llm.benchmarks import BenchmarkResults, Benchmarks
from sunloom.llm.conversations import Conversation
from sunloom.llm.custom_tasks import LoadedTask
from sunloom.llm.encoding import encode, render
from sunloom.llm.evaluation import (
    ExactMatch,
    Generate,
    exact_match,
    greedy,
    last_question,
    measure_loss,
)
from sunloom.llm.models import load_adapter, load_model, load_tokenizer
from sunloom.llm.preference_scores import PreferenceScores
from sunloom.llm.rewards import RewardScores, judge_rewards
from sunloom.llm.safety.judges import LoadedSafetyJudge


@dataclass(frozen=True)
class Judges:
    """What a recipe judges by beside its held-out conversations, loaded and ready.

    Attributes:
        tasks: Files of one's own.
        benchmarks: Public ones; None where the recipe names none.
        safety: Judges of safety with their cases.
        llm_judge: A language model; None where the recipe names none.
    """

    tasks: tuple[LoadedTask, ...] = ()
    benchmarks: Benchmarks | None = None
    safety: tuple[LoadedSafetyJudge, ...] = ()
    llm_judge: LlmJudgment | None = None


@dataclass(frozen=True)
class ModelScores:
    """All that a model was judged by.

    Attributes:
        exact_match: On the held-out conversations, with the loss.
        loss: The same loss, row by row; None where there is none.
        tasks: Of one's own.
        benchmarks: The harness's.
        preferences: On held-out preferences, where these are learned.
        rewards: On held-out prompts, where completions are rewarded.
        safety: Of the judges of safety.
        answers: Last answers of held-out conversations, for a language model to judge.
    """

    exact_match: ExactMatch
    loss: Measurement | None = None
    tasks: tuple[Measurement, ...] = ()
    benchmarks: BenchmarkResults | None = None
    preferences: PreferenceScores | None = None
    rewards: RewardScores | None = None
    safety: tuple[Measurement, ...] = ()
    answers: tuple[JudgedText, ...] = ()

    def measure(self) -> list[Measurement]:
        """Every figure, for a report."""
        found = self.exact_match.measure()
        if self.preferences is not None:
            found += self.preferences.measure()
        elif self.rewards is not None:
            found.append(self.rewards.measure())
        elif self.loss is not None:
            found.append(self.loss)
        found += self.tasks
        if self.benchmarks is not None:
            found += [score.measure(name) for name, score in self.benchmarks.scores.items()]
        return [*found, *self.safety]


def load_judges(recipe: LlmRecipe) -> Judges:
    """Load all that a model will be judged by, so that nothing of it is missing afterwards.

    Raises:
        UsageError: A file, a schema, a benchmark, its data or a judge's cases cannot be had.
        DataError: A task or a judge has nothing to judge on.
    """
    config = recipe.evaluation
    return Judges(
        tasks=tuple(LoadedTask(task, recipe.seed) for task in config.custom_tasks),
        benchmarks=Benchmarks(config) if config.benchmarks else None,
        safety=tuple(LoadedSafetyJudge(judge) for judge in config.safety),
        llm_judge=LlmJudgment(config.llm_judge) if config.llm_judge else None,
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
    preferences = loss = rewards = None
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
        loss = measure_loss(model, rows, tokenizer.pad_token_id)
        scores = replace(scores, loss=loss.mean if loss is not None else None)
    return ModelScores(
        exact_match=scores,
        loss=loss,
        preferences=preferences,
        tasks=tuple(task.run(generate, tokenizer) for task in judges.tasks),
        rewards=rewards,
        benchmarks=benchmarks.run(model, tokenizer) if benchmarks is not None else None,
        safety=tuple(m for judge in judges.safety for m in judge.run(generate, tokenizer)),
        answers=_answer_last_turns(recipe, generate, tokenizer, conversations, scores),
    )


def _answer_last_turns(
    recipe: LlmRecipe,
    generate: Generate,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    judged: ExactMatch,
) -> tuple[JudgedText, ...]:
    """What a language model is shown: a conversation's last answer where it is a text."""
    if recipe.evaluation.llm_judge is None:
        return ()
    chosen = [
        (number, conversation)
        for number, conversation in enumerate(conversations, 1)
        if conversation.messages[-1]["role"] == "assistant"
        and conversation.messages[-1].get("content")
    ][: recipe.evaluation.llm_judge.held_out]
    # Of judged turns the last one has been written already.
    written = {example.conversation: example.generated for example in judged.examples}
    missing = [(n, c) for n, c in chosen if n not in written]
    prompts = [render(tokenizer, c.head(len(c.messages) - 1), prompt=True) for _, c in missing]
    written |= dict(zip((n for n, _ in missing), generate(prompts), strict=True))
    return tuple(
        JudgedText(last_question(c), str(c.messages[-1]["content"]), written[n], 0.0)
        for n, c in chosen
    )
