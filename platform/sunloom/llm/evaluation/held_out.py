"""Evaluation of a model on the held-out conversations of its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.llm.conversations import load_conversation_source
from sunloom.llm.evaluation.exact_match import ExactMatch, exact_match
from sunloom.llm.promotion import ADAPTER_KIND


@dataclass(frozen=True)
class HeldOutEvaluation:
    """Scores of a registered model.

    Attributes:
        model: ``name@version``.
        exact_match: Share of tool-calling turns that are exact.
        answers: Share of plain turns that are exact.
        whole: Share of conversations with every turn right.
        held_out: Number of conversations.
        report: JSON file with every judged turn.
    """

    model: str
    exact_match: float
    answers: float
    whole: float
    held_out: int
    report: str


def evaluate_registered(recipe: LlmRecipe) -> HeldOutEvaluation:
    """Judge a registered adapter, or a base where the recipe has no ``lora``.

    Args:
        recipe: ``output.name`` is the model to judge.

    Raises:
        NotFoundError: The registry has no such model.
    """
    registry = open_registry(recipe)
    version = registry.get(recipe.output.name)
    folder = registry.path(version)
    if version.kind == ADAPTER_KIND:
        # The version that it was trained on; the recipe's base may have a newer one by now.
        base = registry.path(registry.get(str(version.lineage["base"])))
        scores = evaluate_model(recipe, str(base), folder)
    else:
        scores = evaluate_model(recipe, str(folder))
    name = f"{version.name}-{version.version}.json"
    report = scores.save(recipe.paths.outputs / "llm" / "evaluation" / name)
    return HeldOutEvaluation(
        model=version.ref,
        exact_match=scores.calls,
        answers=scores.answers,
        whole=scores.whole,
        held_out=scores.held_out,
        report=str(report),
    )


def evaluate_model(recipe: LlmRecipe, location: str, adapter: Path | None = None) -> ExactMatch:
    """Exact match of a model on the recipe's held-out conversations.

    Args:
        recipe: Names the conversations and how many.
        location: Folder or hub id of the base.
        adapter: Folder of an adapter on that base.
    """
    from sunloom.llm.inference import greedy
    from sunloom.llm.models import load_adapter, load_model, load_tokenizer

    tokenizer = load_tokenizer(location, recipe.model)
    model = load_model(location, recipe.model)
    if adapter is not None:
        model = load_adapter(model, adapter)
    model.eval()
    generate = greedy(model, tokenizer, max_new_tokens=recipe.evaluation.max_new_tokens)
    source = load_conversation_source(recipe.evaluation.conversations or recipe.data.conversations)
    return exact_match(
        generate, tokenizer, source.held_out(recipe.evaluation.held_out, recipe.seed)
    )
