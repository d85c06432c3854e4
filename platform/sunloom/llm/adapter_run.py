"""The run that trains a LoRA adapter: trained, judged beside its base, registered, promoted."""

from __future__ import annotations

from dataclasses import asdict

from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import TrainingResult, open_registry
from sunloom.core.runs import run_of_this_process
from sunloom.errors import UsageError
from sunloom.llm.evaluation.held_out import evaluate_model
from sunloom.llm.loss_plot import plot_losses
from sunloom.llm.models import load_tokenizer, resolve_model
from sunloom.llm.promotion import (
    ADAPTER_KIND,
    gate_failures,
    recipe_fingerprint,
    reuse_registered,
)


def train_adapter(recipe: LlmRecipe) -> TrainingResult:
    """Train a LoRA adapter, judge base and adapter on held-out conversations, register it.

    Args:
        recipe: A recipe with ``model.name`` and ``lora``.

    Raises:
        UsageError: ``lora`` or ``model.name`` is missing.
        DivergedError: The loss was not finite.
        TrainingError: The workers failed.
    """
    if recipe.lora is None or recipe.model.name is None:
        raise UsageError("An adapter needs lora and model.name.", param="lora")
    registry = open_registry(recipe)
    location, base = resolve_model(recipe.model, registry)
    identity = recipe_fingerprint(recipe, base)
    if (reused := reuse_registered(recipe, registry, identity)) is not None:
        return reused
    # Torch loads here: a reused model must not wait for it.
    from sunloom.llm.launch import train_on_workers
    from sunloom.llm.training_metrics import compare_with_base, measure_training

    with run_of_this_process(recipe, "llm-adapter") as run:
        tokenizer = load_tokenizer(location, recipe.model)
        outcome = train_on_workers(recipe, run, tokenizer=tokenizer, location=location, base=base)
        folder, export = run.directory, run.directory / "export"
        before = evaluate_model(recipe, location)
        after = evaluate_model(recipe, location, export)
        metrics = asdict(measure_training(export, outcome, recipe.training))
        metrics |= asdict(compare_with_base(before, after))
        lineage = {"fingerprint": identity, "run": run.run_id, "base": base}
        version = registry.register(recipe.output.name, ADAPTER_KIND, export, metrics, lineage)
        failures = gate_failures(version.metrics, recipe.evaluation)
        files = {
            "base_report": before.save(folder / "base_exact_match.json"),
            "adapter_report": after.save(folder / "adapter_exact_match.json"),
            "loss_plot": plot_losses(
                [folder], folder / "loss.png", [f"{recipe.output.name}: adapter"]
            ),
        }
        return TrainingResult(
            version=version,
            promoted=registry.promote_if_passed(version, recipe.output.alias, failures),
            failures=failures,
            files={name: str(path) for name, path in files.items()},
        )
