"""The run that trains a base model: built or loaded, trained, registered and promoted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import ModelRegistry, TrainingResult, open_registry
from sunloom.core.runs import Run, run_of_this_process
from sunloom.errors import UsageError
from sunloom.llm.conversations import load_conversation_source
from sunloom.llm.loss_plot import plot_losses
from sunloom.llm.models import build_llama, load_tokenizer, resolve_model
from sunloom.llm.promotion import BASE_KIND, recipe_fingerprint, reuse_registered
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts


def train_base(recipe: LlmRecipe) -> TrainingResult:
    """Train every parameter of a model; without ``model.name`` build it and its tokenizer first.

    Args:
        recipe: A recipe without ``lora``.

    Raises:
        UsageError: The recipe has a ``lora`` section.
        DivergedError: The loss was not finite.
        TrainingError: The workers failed.
    """
    if recipe.lora is not None:
        raise UsageError("A base model is trained without a lora section.", param="lora")
    registry = open_registry(recipe)
    identity = recipe_fingerprint(recipe, None)
    if (reused := reuse_registered(recipe, registry, identity)) is not None:
        return reused
    # Torch loads here: a reused model must not wait for it.
    from sunloom.llm.launch import train_on_workers
    from sunloom.llm.training_metrics import measure_training

    with run_of_this_process(recipe, "llm-base") as run:
        tokenizer, location = _starting_point(recipe, registry, run)
        outcome = train_on_workers(recipe, run, tokenizer=tokenizer, location=location, base="")
        export = run.directory / "export"
        version = registry.register(
            recipe.output.name,
            BASE_KIND,
            export,
            asdict(measure_training(export, outcome, recipe.training)),
            {"fingerprint": identity, "run": run.run_id, "base": recipe.model.name},
        )
        plot = plot_losses(
            [run.directory], run.directory / "loss.png", [f"{recipe.output.name}: base"]
        )
        # No gate: a base is judged through the adapters that are trained on it.
        registry.promote(version.name, version.version, recipe.output.alias)
        return TrainingResult(version=version, promoted=True, files={"loss_plot": str(plot)})


def _starting_point(recipe: LlmRecipe, registry: ModelRegistry, run: Run) -> tuple[Any, str]:
    """Tokenizer and location of the starting weights; builds both where no model is named."""
    if recipe.model.name is not None:
        location, _ = resolve_model(recipe.model, registry)
        return load_tokenizer(location, recipe.model), location
    shape = recipe.model.architecture
    source = load_conversation_source(recipe.data.conversations)
    samples = source.train(shape.tokenizer_conversations, recipe.seed)
    tokenizer = build_tokenizer(conversation_texts(samples), shape.vocabulary, shape.max_length)
    # The run's folder is shared: every worker loads the start from it like any named model.
    folder = run.directory / "start"
    tokenizer.save_pretrained(str(folder))
    build_llama(shape, tokenizer, recipe.seed).save_pretrained(str(folder))
    return tokenizer, str(folder)
