"""Train, judge, register: the life of a base model and of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sunloom.config.llm import LlmRecipe
from sunloom.core.cluster import connect
from sunloom.core.fingerprint import fingerprint
from sunloom.core.model_registry import ModelRegistry, ModelVersion, open_registry
from sunloom.core.plugins import load_plugin, plugin_value
from sunloom.core.runs import Run, run_of_this_process
from sunloom.core.telemetry import get_logger
from sunloom.errors import UsageError
from sunloom.llm.conversations import Conversation, ConversationSource
from sunloom.llm.evaluation.exact_match import ExactMatch, exact_match

BASE_KIND, ADAPTER_KIND = "llm", "adapter"


@dataclass(frozen=True)
class LlmResult:
    """What a training run came to.

    Attributes:
        version: The registered model or adapter.
        promoted: Whether the gate held and the alias points at the version.
        reused: Whether the version was there already, from the same recipe, seed and base.
        run_dir: The run's folder, None where nothing was trained.
        files: Name to path of reports and pictures.
    """

    version: ModelVersion
    promoted: bool
    reused: bool
    run_dir: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """The registered figures, and ``promoted`` and ``reused``."""
        return dict(self.version.metrics) | {"promoted": self.promoted, "reused": self.reused}

    @property
    def artifacts(self) -> dict[str, str]:
        """The model's reference, its URI, and the files."""
        return {"model": self.version.ref, "uri": self.version.uri, **self.files}


def train_base(recipe: LlmRecipe) -> LlmResult:
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
    identity = _identity(recipe, None)
    if (known := _reuse(recipe, registry, identity)) is not None:
        return known
    with run_of_this_process(recipe, "llm-base") as run:
        tokenizer, location = _starting_point(recipe, registry, run)
        outcome = _train(recipe, run, tokenizer, location, base="")
        figures = _figures(run.directory / "export", outcome, recipe)
        version = registry.register(
            recipe.output.name,
            BASE_KIND,
            run.directory / "export",
            figures,
            {"fingerprint": identity, "run": run.run_id, "base": recipe.model.name},
        )
        files = _picture(run, f"{recipe.output.name}: base")
        registry.promote(version.name, version.version, recipe.output.alias)
        return LlmResult(version, True, False, run.directory, files)


def train_adapter(recipe: LlmRecipe) -> LlmResult:
    """Train a LoRA adapter, judge base and adapter on held-out conversations, register it.

    Args:
        recipe: A recipe with ``model.name`` and ``lora``.

    Raises:
        UsageError: ``lora`` or ``model.name`` is missing.
        DivergedError: The loss was not finite.
        TrainingError: The workers failed.
    """
    from sunloom.llm.models import load_tokenizer, resolve_model

    if recipe.lora is None or recipe.model.name is None:
        raise UsageError("An adapter needs lora and model.name.", param="lora")
    registry = open_registry(recipe)
    location, base = resolve_model(recipe.model, registry)
    identity = _identity(recipe, base)
    if (known := _reuse(recipe, registry, identity)) is not None:
        return known
    with run_of_this_process(recipe, "llm-adapter") as run:
        tokenizer = load_tokenizer(location, recipe.model)
        outcome = _train(recipe, run, tokenizer, location, base)
        export = run.directory / "export"
        before, after = judge(recipe, location, None), judge(recipe, location, export)
        reports = {
            "base_report": str(before.save(run.directory / "base_exact_match.json")),
            "adapter_report": str(after.save(run.directory / "adapter_exact_match.json")),
        }
        figures = _figures(export, outcome, recipe) | _scores(before, after)
        lineage = {"fingerprint": identity, "run": run.run_id, "base": base}
        version = registry.register(recipe.output.name, ADAPTER_KIND, export, figures, lineage)
        promoted = _promote(recipe, registry, version)
        files = reports | _picture(run, f"{recipe.output.name}: adapter")
        return LlmResult(version, promoted, False, run.directory, files)


def evaluate(recipe: LlmRecipe) -> dict[str, Any]:
    """Judge a registered adapter, or a base where the recipe has no ``lora``.

    Args:
        recipe: ``output.name`` is the model to judge.

    Returns:
        ``model``, ``exact_match``, ``answers``, ``whole``, ``held_out`` and ``report``.
    """
    registry = open_registry(recipe)
    version = registry.get(recipe.output.name)
    folder = registry.path(version)
    if version.kind == ADAPTER_KIND:
        base = registry.path(registry.get(str(version.lineage["base"])))
        found = judge(recipe, str(base), folder)
    else:
        found = judge(recipe, str(folder), None)
    name = f"{version.name}-{version.version}.json"
    report = found.save(recipe.paths.outputs / "llm" / "evaluation" / name)
    return {
        "model": version.ref,
        "exact_match": found.calls,
        "answers": found.answers,
        "whole": found.whole,
        "held_out": found.held_out,
        "report": str(report),
    }


def judge(recipe: LlmRecipe, location: str, adapter: Path | None) -> ExactMatch:
    """Exact match of a base, or of a base with an adapter, on the recipe's held-out questions."""
    from sunloom.llm.inference import greedy
    from sunloom.llm.models import load_adapter, load_model, load_tokenizer

    tokenizer = load_tokenizer(location, recipe.model)
    model = load_model(location, recipe.model)
    if adapter is not None:
        model = load_adapter(model, adapter)
    model.eval()
    generate = greedy(model, tokenizer, max_new_tokens=recipe.evaluation.max_new_tokens)
    name = recipe.evaluation.conversations or recipe.data.conversations
    held_out = load_source(name).held_out(recipe.evaluation.held_out, recipe.seed)
    return exact_match(generate, tokenizer, held_out)


def load_source(name: str) -> ConversationSource:
    """A conversation source by its entry point.

    Raises:
        NotFoundError: No such entry point; the known ones are listed.
        PluginError: It is not a conversation source.
    """
    made: ConversationSource = load_plugin("sunloom.conversations", name)()
    if not isinstance(made, ConversationSource):
        raise UsageError(f"{name!r} is not a conversation source.", param="data.conversations")
    return made


def _identity(recipe: LlmRecipe, base: str | None) -> str:
    """Fingerprint of what decides the weights; where the work runs is not part of it."""
    training = recipe.training.model_dump(mode="json")
    for key in ("resume_from", "max_failures", "keep_checkpoints", "checkpoint_every"):
        training.pop(key)
    parts = recipe.model_dump(mode="json", include={"seed", "model", "data", "lora", "evaluation"})
    source = plugin_value("sunloom.conversations", recipe.data.conversations)
    # A changed source of the same name is another model.
    sample = [asdict(one) for one in load_source(recipe.data.conversations).train(64, recipe.seed)]
    return fingerprint(parts, training, source, sample, base)


def _reuse(recipe: LlmRecipe, registry: ModelRegistry, identity: str) -> LlmResult | None:
    if not recipe.output.reuse:
        return None
    version = registry.find(recipe.output.name, identity)
    if version is None:
        return None
    get_logger("llm").info("%s was made from the same recipe: reused", version.ref)
    passed = _passes(recipe, version)
    if passed:
        registry.promote(version.name, version.version, recipe.output.alias)
    files = _kept_files(recipe.paths.outputs / "runs" / str(version.lineage.get("run", "")))
    return LlmResult(version, passed, True, None, files)


def _kept_files(folder: Path) -> dict[str, str]:
    """Reports and picture of the run that made a reused version, where they still lie."""
    names = {
        "loss_plot": "loss.png",
        "base_report": "base_exact_match.json",
        "adapter_report": "adapter_exact_match.json",
    }
    return {key: str(folder / name) for key, name in names.items() if (folder / name).is_file()}


def _starting_point(recipe: LlmRecipe, registry: ModelRegistry, run: Run) -> tuple[Any, str]:
    """Tokenizer and location of the starting weights; builds both where no model is named."""
    from sunloom.llm.models import build_llama, load_tokenizer, resolve_model
    from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

    if recipe.model.name is not None:
        location, _ = resolve_model(recipe.model, registry)
        return load_tokenizer(location, recipe.model), location
    shape = recipe.model.architecture
    source = load_source(recipe.data.conversations)
    samples = source.train(shape.tokenizer_conversations, recipe.seed)
    tokenizer = build_tokenizer(conversation_texts(samples), shape.vocabulary, shape.max_length)
    folder = run.directory / "start"
    tokenizer.save_pretrained(str(folder))
    build_llama(shape, tokenizer, recipe.seed).save_pretrained(str(folder))
    return tokenizer, str(folder)


def _train(recipe: LlmRecipe, run: Run, tokenizer: Any, location: str, base: str) -> dict[str, Any]:
    """Encode the conversations and run the workers; the export lies in the run's folder."""
    from sunloom.llm.encoding import encode, save_encoded
    from sunloom.llm.launch import launch
    from sunloom.llm.loop import TrainingTask

    connect(recipe)
    rows = encode(tokenizer, _conversations(recipe), recipe.data.max_length)
    data = run.directory / "conversations.npz"
    save_encoded(rows, data)
    work = TrainingTask(
        model=location,
        base=base,
        data=data,
        directory=run.directory,
        pad=tokenizer.pad_token_id,
        seed=recipe.seed,
        training=recipe.training,
        lora=recipe.lora,
    )
    outcome = launch(work, f"training {recipe.output.name}")
    tokenizer.save_pretrained(str(run.directory / "export"))
    return outcome


def _conversations(recipe: LlmRecipe) -> list[Conversation]:
    wanted = recipe.training.steps * recipe.training.batch_size
    return load_source(recipe.data.conversations).train(wanted, recipe.seed)


def _figures(export: Path, outcome: Mapping[str, Any], recipe: LlmRecipe) -> dict[str, Any]:
    from sunloom.llm.distributed import describe
    from sunloom.llm.models import stored_parameter_count

    tail = outcome["losses"][-20:] or [float("nan")]
    return {
        "parameters": stored_parameter_count(export),
        "final_loss": sum(tail) / len(tail),
        "steps": recipe.training.steps,
        "tokens": outcome["tokens"],
        "training_seconds": round(outcome["seconds"], 1),
        "tokens_per_second": round(outcome["tokens"] / outcome["seconds"], 1),
        "workers": recipe.training.workers,
        "parallelism": describe(recipe.training.distributed),
        "dtype": outcome["dtype"],
        "probe": outcome["probe"],
    }


def _scores(before: ExactMatch, after: ExactMatch) -> dict[str, Any]:
    return {
        "held_out": after.held_out,
        "base_exact_match": before.calls,
        "adapter_exact_match": after.calls,
        "base_answers": before.answers,
        "adapter_answers": after.answers,
        "adapter_whole": after.whole,
    }


def _promote(recipe: LlmRecipe, registry: ModelRegistry, version: ModelVersion) -> bool:
    passed = _passes(recipe, version)
    if passed:
        registry.promote(version.name, version.version, recipe.output.alias)
    return passed


def _passes(recipe: LlmRecipe, version: ModelVersion) -> bool:
    """Whether every judged share reaches its bar; a base model has none."""
    bars = {
        "adapter_exact_match": recipe.evaluation.min_exact_match,
        "adapter_whole": recipe.evaluation.min_whole,
    }
    low = {n: bar for n, bar in bars.items() if version.metrics.get(n, 1.0) < bar}
    for name, bar in low.items():
        get_logger("llm").warning(
            "%s is not promoted: %s %.3f is below %.3f",
            version.ref,
            name,
            version.metrics[name],
            bar,
        )
    return not low


def _picture(run: Run, title: str) -> dict[str, str]:
    from sunloom.llm.history import plot_losses

    return {"loss_plot": str(plot_losses([run.directory], run.directory / "loss.png", [title]))}
