"""Identity and gate of a registered model: when it is reused, and when it is promoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sunloom.config.llm import EvaluationConfig, LlmRecipe
from sunloom.config.loading.model import dump_identity
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import ModelRegistry, TrainingResult
from sunloom.core.plugins import plugin_value
from sunloom.core.telemetry import get_logger
from sunloom.llm.conversations import load_conversation_source

BASE_KIND, ADAPTER_KIND = "llm", "adapter"

# Where and how durably the work runs decides no weight.
_NO_IDENTITY = (
    "resume_from", "max_failures", "keep_checkpoints", "checkpoint_every", "accelerator",
    "trackers",
)  # fmt: skip
FINGERPRINT_KEYS = frozenset(
    """seed
    model model.name model.revision model.trust_remote_code model.architecture
    model.architecture.hidden_size model.architecture.layers model.architecture.heads
    model.architecture.intermediate_size model.architecture.vocabulary
    model.architecture.rope_theta model.architecture.max_length
    model.architecture.tokenizer_conversations model.architecture.copying_circuit
    data data.conversations data.max_length
    training.steps training.batch_size training.learning_rate training.warmup_steps
    training.weight_decay training.betas training.max_grad_norm training.dtype
    training.distributed training.distributed.type training.distributed.reshard_after_forward
    training.distributed.zero_stage training.workers training.use_gpu training.cpus_per_worker
    lora lora.r lora.alpha lora.dropout lora.target_modules
    evaluation evaluation.conversations evaluation.held_out evaluation.min_exact_match
    evaluation.min_whole evaluation.max_new_tokens""".split()  # noqa: SIM905
)
"""Keys that every fingerprint contains, at their default too; never add one.

A key that came later counts only where it differs from its default: so models that were
registered before it are still found.
"""


def recipe_fingerprint(recipe: LlmRecipe, base: str | None) -> str:
    """Fingerprint of what decides the weights.

    Args:
        recipe: What is trained.
        base: ``name@version`` of an adapter's base.
    """
    identity = dump_identity(recipe, FINGERPRINT_KEYS)
    parts = {key: identity[key] for key in ("seed", "model", "data", "lora", "evaluation")}
    training = dump_identity(recipe.training, FINGERPRINT_KEYS, "training.")
    for key in _NO_IDENTITY:
        training.pop(key, None)
    name = recipe.data.conversations
    # The code of a source may change under the same name: its conversations are another model.
    sample = [asdict(c) for c in load_conversation_source(name).train(64, recipe.seed)]
    return fingerprint(parts, training, plugin_value("sunloom.conversations", name), sample, base)


def reuse_registered(
    recipe: LlmRecipe, registry: ModelRegistry, identity: str
) -> TrainingResult | None:
    """The version that the same recipe made before, promoted if its gate holds.

    None where there is no such version, its files are damaged, or the recipe forbids reuse.
    """
    version = registry.find(recipe.output.name, identity) if recipe.output.reuse else None
    if version is None:
        return None
    get_logger("llm").info("%s was made from the same recipe: reused", version.ref)
    failures = gate_failures(version.metrics, recipe.evaluation)
    folder = recipe.paths.outputs / "runs" / str(version.lineage.get("run", ""))
    names = {
        "loss_plot": "loss.png",
        "base_report": "base_exact_match.json",
        "adapter_report": "adapter_exact_match.json",
    }
    return TrainingResult(
        version=version,
        promoted=registry.promote_if_passed(version, recipe.output.alias, failures),
        reused=True,
        failures=failures,
        files={key: str(folder / name) for key, name in names.items() if (folder / name).is_file()},
    )


def gate_failures(metrics: Mapping[str, Any], config: EvaluationConfig) -> tuple[str, ...]:
    """What of the gate does not hold, in words; a base model, which is not judged, passes."""
    bars = {"adapter_exact_match": config.min_exact_match, "adapter_whole": config.min_whole}
    return tuple(
        f"{name} {metrics[name]:.3f} is below {bar:.3f}"
        for name, bar in bars.items()
        if metrics.get(name, 1.0) < bar
    )
