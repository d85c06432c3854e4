"""Training runs: a base model or a LoRA adapter trained, measured, registered and promoted.

A run is identified by the fingerprint of what decides the weights: a version that the same recipe
made before is used again. What was trained from a model is judged beside it, and promoted if that
passes the recipe's gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunloom.config.llm import Grpo, JsonSchema, LlmRecipe, RewardTerm, TrainingConfig
from sunloom.config.loading.model import dump_identity
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import ModelRegistry, ModelVersion, TrainingResult, open_registry
from sunloom.core.plugins import plugin_value
from sunloom.core.progress import read_progress
from sunloom.core.runs import Run, run_of_this_process
from sunloom.core.telemetry import get_logger
from sunloom.errors import UsageError
from sunloom.llm.base_models import require_start, resolve_adapter, resolve_model
from sunloom.llm.conversation_files import hash_files
from sunloom.llm.conversation_split import ConversationSplit, load_split
from sunloom.llm.conversations import load_conversation_source
from sunloom.llm.gate import compare_scores, gate_failures
from sunloom.llm.judging import ModelScores, judge_adapter, judge_tuned, load_judges
from sunloom.llm.models import (
    ADAPTER_KIND,
    BASE_KIND,
    REWARD_KIND,
    build_llama,
    load_tokenizer,
    served_by_merging,
    stored_parameter_count,
)
from sunloom.llm.resuming import SAMPLES, RunIdentity
from sunloom.llm.rewards import REWARD_GROUP
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

if TYPE_CHECKING:
    from sunloom.llm.loop import TrainingOutcome

_FINAL_STEPS = 20
# Where and how durably the work runs decides no weight.
_NO_IDENTITY = (
    "resume_from", "max_failures", "keep_checkpoints", "checkpoint_every", "accelerator",
    "trackers", "min_workers", "resize_interval_s", "pass_tokens",
)  # fmt: skip
# Defaults, which fingerprints leave out.
_EARLIER_EVERY, _EARLIER_SAMPLE = 100, 48
# Where a conversation was read from, and why others are left out: those that are left are compared.
_NO_IDENTITY_OF_DATA = ("train", "held_out_share", "near_duplicates", "contamination")
FINGERPRINT_KEYS = frozenset(
    """seed
    model model.base_model model.revision model.trust_remote_code model.architecture
    model.architecture.hidden_size model.architecture.layers model.architecture.heads
    model.architecture.intermediate_size model.architecture.vocabulary
    model.architecture.rope_theta model.architecture.max_length
    model.architecture.tokenizer_conversations model.architecture.copying_circuit
    data data.conversations data.max_length
    training.max_steps training.batch_size training.learning_rate training.warmup_ratio
    training.weight_decay training.betas training.max_grad_norm model.torch_dtype
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


@dataclass(frozen=True)
class TrainingMetrics:
    """What training cost and reached, as the registry keeps it.

    Attributes:
        parameters: Trained and exported.
        final_loss: Mean of the last 20 steps; NaN where none was run.
        steps: Optimizer steps, fewer than the recipe's where early stopping ended the run.
        tokens: Seen by all workers.
        training_seconds: Of the training loop alone.
        tokens_per_second: Over all workers.
        workers: Ray Train workers.
        parallelism: ``ddp``, ``fsdp``, ``deepspeed_zero2`` or ``deepspeed_zero3``.
        dtype: Number format of the matrix products.
        probe: The first worker's ``DtypeProbe``.
        eval_loss: On held-out conversations during training, of the exported weights or the last;
            None where it was not measured.
        best_step: Step of the exported weights, where early stopping chose them by the loss.
    """

    parameters: int
    final_loss: float
    steps: int
    tokens: int
    training_seconds: float
    tokens_per_second: float
    workers: int
    parallelism: str
    dtype: str
    probe: dict[str, Any]
    eval_loss: float | None = None
    best_step: int | None = None


def train_base(recipe: LlmRecipe) -> TrainingResult:
    """Train every parameter of a model; without ``model.base_model`` build one first.

    Where ``LlmRecipe.is_judged``, start and result are judged on held-out conversations.

    Args:
        recipe: A recipe whose ``training.method`` is ``full``.

    Raises:
        UsageError: The method is another one, or the output's name is another model's.
        DivergedError: The loss was not finite.
        TrainingError: The workers failed.
    """
    if recipe.is_adapter:
        raise UsageError(
            "A base model is trained with training.method=full.", param="training.method"
        )
    registry, output = open_registry(recipe), recipe.output
    # Before the work, and before a registered version is reused: reuse moves an alias too.
    kind = REWARD_KIND if recipe.is_reward_model else BASE_KIND
    registry.check_name(output.name, kind, output.tenant)
    named = recipe.model.base_model is not None
    location, base = resolve_model(recipe.model, registry) if named else (None, None)
    data = load_split(recipe)
    identity = recipe_fingerprint(recipe, base)
    if (reused := _reuse_registered(recipe, registry, identity, data)) is not None:
        return reused
    # Torch loads here: a reused model must not wait for it.
    from sunloom.llm.launch import train_on_workers

    with run_of_this_process(recipe, "llm-base") as run:
        tokenizer, start = _starting_point(recipe, location, run, data)
        judge = None
        if recipe.is_judged:
            # Before the first step: what cannot be judged would only be met after the last one.
            judges = load_judges(recipe)
            data.require_judgeable(tokenizer, recipe.longest_row)
            export = run.directory / "export"
            judge = partial(judge_tuned, recipe, judges, data.held_out, start=start, export=export)
        outcome = train_on_workers(
            recipe,
            run,
            data,
            identity=RunIdentity(identity, data.digest, output.tenant),
            tokenizer=tokenizer,
            location=start,
            base="",
        )
        lineage = {"fingerprint": identity, "data": data.digest, "run": run.run_id, "base": base}
        version = _register_judged(
            recipe, registry, kind, run, outcome=outcome, lineage=lineage, judge=judge
        )
        plot_losses(run.directory, f"{output.name}: base")
        return _publish(recipe, registry, version, run.directory)


def _starting_point(
    recipe: LlmRecipe, location: str | None, run: Run, data: ConversationSplit
) -> tuple[Any, str]:
    """Tokenizer and location of the starting weights; builds both where no model is named."""
    if location is not None:
        return load_tokenizer(location, recipe.model), location
    shape = recipe.model.architecture
    wanted = shape.tokenizer_conversations
    if recipe.data.train:
        samples = data.train.sample(wanted)
    else:
        # A plugin makes as many as it is asked for, whatever the steps need.
        source = load_conversation_source(recipe.data.conversations)
        samples = source.train(wanted, recipe.seed)[:wanted]
    tokenizer = build_tokenizer(conversation_texts(samples), shape.vocabulary, shape.max_length)
    # The run's folder is shared: every worker loads the start from it like any named model.
    folder = run.directory / "start"
    tokenizer.save_pretrained(str(folder))
    build_llama(shape, tokenizer, recipe.seed).save_pretrained(str(folder))
    return tokenizer, str(folder)


def train_adapter(recipe: LlmRecipe) -> TrainingResult:
    """Train a LoRA adapter, judge base and adapter on held-out conversations, register it.

    Args:
        recipe: A recipe with ``model.base_model`` whose ``training.method`` is not ``full``.

    Raises:
        UsageError: One of both is not so, or the output's name is another model's.
        DivergedError: The loss was not finite.
        TrainingError: The workers failed.
    """
    if not recipe.is_adapter:
        raise UsageError("An adapter needs training.method=lora or qlora.", param="training.method")
    require_start(recipe)
    registry, output = open_registry(recipe), recipe.output
    kind = REWARD_KIND if recipe.is_reward_model else ADAPTER_KIND
    registry.check_name(output.name, kind, output.tenant)
    location, base = resolve_model(recipe.model, registry)
    recipe, start = resolve_adapter(recipe, registry, base)
    data = load_split(recipe)
    identity = recipe_fingerprint(recipe, base)
    if (reused := _reuse_registered(recipe, registry, identity, data)) is not None:
        return reused
    # Torch loads here: a reused model must not wait for it.
    from sunloom.llm.launch import train_on_workers

    with run_of_this_process(recipe, "llm-adapter") as run:
        tokenizer = load_tokenizer(location, recipe.model)
        # Before the first step: what cannot be judged would only be met after the last one.
        judges = load_judges(recipe)
        data.require_judgeable(tokenizer, recipe.longest_row)
        outcome = train_on_workers(
            recipe,
            run,
            data,
            identity=RunIdentity(identity, data.digest, output.tenant),
            tokenizer=tokenizer,
            location=location,
            base=base,
            adapter=start,
        )
        lineage = {"fingerprint": identity, "data": data.digest, "run": run.run_id, "base": base}
        if start is not None:
            lineage["start"] = str(recipe.model.adapter)
        export = run.directory / "export"
        # Against what training started from: an earlier adapter, or the base alone.
        judge = partial(
            judge_adapter,
            recipe,
            judges,
            data.held_out,
            location=location,
            adapter=export,
            start=start,
        )
        version = _register_judged(
            recipe, registry, kind, run, outcome=outcome, lineage=lineage, judge=judge
        )
        if kind == ADAPTER_KIND and (own := served_by_merging(export)) is not None:
            get_logger("llm").warning(
                "%s has %s, which vLLM cannot add to a base: serve what sunloom llm merge %s makes",
                version.ref,
                own,
                version.ref,
            )
        plot_losses(run.directory, f"{output.name}: adapter")
        return _publish(recipe, registry, version, run.directory)


def _register_judged(
    recipe: LlmRecipe,
    registry: ModelRegistry,
    kind: str,
    run: Run,
    *,
    outcome: TrainingOutcome,
    lineage: dict[str, Any],
    judge: Callable[[], tuple[ModelScores, ModelScores]] | None,
) -> ModelVersion:
    """Register a run's export with its scores; the run's folder gets the reports.

    Args:
        recipe: What was trained.
        registry: Where it is registered.
        kind: Of model.
        run: Its folder has the export.
        outcome: What the workers returned.
        lineage: Of the version.
        judge: Scores of what training started from and of its result; None judges nothing.
    """
    folder, output = run.directory, recipe.output
    export = folder / "export"
    metrics = asdict(measure_training(export, outcome, recipe.training))
    register = partial(
        registry.register, output.name, kind, export, lineage=lineage, tenant=output.tenant
    )
    if judge is None:
        return register(metrics)
    try:
        before, after = judge()
    except Exception:
        # What was learned is kept, without scores and so without the alias.
        version = register(metrics)
        get_logger("llm").error("%s is registered, but judging it failed", version.ref)
        raise
    version = register(metrics | asdict(compare_scores(before, after)))
    for name, judged in (("base", before), ("adapter", after)):
        report = "preferences" if recipe.learns_preferences else "exact_match"
        if recipe.learns_rewards:
            report = "rewards"
        judged.save_report(folder / f"{name}_{report}.json")
        judged.save_tasks(folder / f"{name}_tasks.json")
        judged.save_benchmarks(folder / f"{name}_benchmarks.json")
    return version


def recipe_fingerprint(recipe: LlmRecipe, base: str | None) -> str:
    """Fingerprint of what decides the weights.

    Args:
        recipe: What is trained.
        base: ``name@version`` of the model that is trained from; None where one is built.
    """
    identity = dump_identity(recipe, FINGERPRINT_KEYS)
    parts = {key: identity[key] for key in ("seed", "model", "data", "lora", "evaluation")}
    training = dump_identity(recipe.training, FINGERPRINT_KEYS, "training.")
    for key in _NO_IDENTITY:
        training.pop(key, None)
    _use_earlier_names(recipe, parts, training)
    if tasks := recipe.evaluation.custom_tasks:
        # Scores of other questions are no scores of these, though the file's name is the same.
        parts["tasks"] = [hash_files(task.path) for task in tasks]
    parts["data"] = {k: v for k, v in parts["data"].items() if k not in _NO_IDENTITY_OF_DATA}
    if training.get("early_stopping") is not None:
        # What ends the run decides the weights; these keys had other names.
        stop, evaluation = training["early_stopping"], recipe.evaluation
        if recipe.eval_steps != _EARLIER_EVERY:
            stop["every"] = recipe.eval_steps
        if evaluation.eval_sample != _EARLIER_SAMPLE:
            stop["held_out"] = evaluation.eval_sample
    for key in ("eval_steps", "eval_sample", "benchmark_batch_size"):
        parts["evaluation"].pop(key, None)
    if isinstance(recipe.training.objective, Grpo):
        parts["rewards"] = [_reward_identity(term) for term in recipe.training.objective.rewards]
    if recipe.data.train:
        return fingerprint(parts, training, "files", [], base)
    name = recipe.data.conversations
    # The code of a source may change under the same name: its conversations are another model.
    conversations = load_conversation_source(name).train(64, recipe.seed)
    sample = [{"messages": c.messages, "tools": c.tools} for c in conversations]
    return fingerprint(parts, training, plugin_value("sunloom.conversations", name), sample, base)


def _reward_identity(term: RewardTerm) -> str:
    """What a name or a path alone does not tell: the function behind it, or the schema in it."""
    if term.name is not None:
        return plugin_value(REWARD_GROUP, term.name)
    return hash_files(term.metric.path) if isinstance(term.metric, JsonSchema) else ""


def _use_earlier_names(recipe: LlmRecipe, parts: dict[str, Any], training: dict[str, Any]) -> None:
    """Write keys that have been renamed as fingerprints of before have them."""
    model = parts["model"]
    model["name"], training["dtype"] = model.pop("base_model"), model.pop("torch_dtype")
    training["steps"] = training.pop("max_steps")
    del training["warmup_ratio"]
    training["warmup_steps"] = recipe.training.warmup_steps
    training["batch_size"] = recipe.training.conversations_a_step
    training.pop("method", None)
    if not recipe.is_adapter:
        parts["lora"] = None


def _reuse_registered(
    recipe: LlmRecipe, registry: ModelRegistry, identity: str, data: ConversationSplit
) -> TrainingResult | None:
    """The version that the same recipe and data made before, promoted if its gate holds.

    None where there is no such version, its files are damaged, judging it failed, or the recipe
    forbids reuse.
    """
    version = registry.find(recipe.output.name, identity) if recipe.output.reuse else None
    if version is None:
        return None
    # Versions from before the data was noted are known by the fingerprint alone.
    if version.lineage.get("data", data.digest) != data.digest:
        return None
    if recipe.is_judged and "adapter_exact_match" not in version.metrics:
        return None
    get_logger("llm").info("%s was made from the same recipe: reused", version.ref)
    folder = recipe.paths.outputs / "runs" / str(version.lineage.get("run", ""))
    return _publish(recipe, registry, version, folder, reused=True)


def _publish(
    recipe: LlmRecipe,
    registry: ModelRegistry,
    version: ModelVersion,
    folder: Path,
    *,
    reused: bool = False,
) -> TrainingResult:
    """Promote a version whose gate holds; the result names what its run's folder has of reports."""
    failures = gate_failures(version.metrics, recipe.evaluation) if recipe.is_judged else ()
    names = {
        "base_report": "base_exact_match.json",
        "adapter_report": "adapter_exact_match.json",
        "base_benchmarks": "base_benchmarks.json",
        "adapter_benchmarks": "adapter_benchmarks.json",
        "adapter_tasks": "adapter_tasks.json",
        "adapter_preferences": "adapter_preferences.json",
        "adapter_rewards": "adapter_rewards.json",
        "samples": SAMPLES,
        "loss_plot": "loss.png",
    }
    return TrainingResult(
        version=version,
        promoted=registry.promote_if_passed(version, recipe.output.alias, failures),
        reused=reused,
        failures=failures,
        files={key: str(folder / name) for key, name in names.items() if (folder / name).is_file()},
    )


def measure_training(
    export: Path, outcome: TrainingOutcome, config: TrainingConfig
) -> TrainingMetrics:
    """Metrics of a run that has ended.

    Args:
        export: Folder of the exported weights.
        outcome: What the workers returned.
        config: The run.
    """
    from sunloom.llm.distributed import describe

    # One step's loss depends on its batch: the mean of several can be compared between runs.
    losses = outcome.losses[-_FINAL_STEPS:] or [float("nan")]
    return TrainingMetrics(
        parameters=stored_parameter_count(export),
        final_loss=sum(losses) / len(losses),
        steps=outcome.first_step - 1 + len(outcome.losses),
        tokens=outcome.tokens,
        training_seconds=round(outcome.seconds, 1),
        tokens_per_second=round(outcome.tokens / outcome.seconds, 1),
        workers=config.workers,
        parallelism=describe(config.distributed),
        dtype=outcome.dtype,
        probe=asdict(outcome.probe),
        eval_loss=outcome.eval_loss,
        best_step=outcome.best_step,
    )


def plot_losses(run_dir: Path, title: str) -> Path:
    """Draw the loss, or the reward, over the steps of a run as ``loss.png`` in its folder."""
    # Without pyplot there is no global state and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    rows = read_progress(run_dir)
    points = [(row.step, row.loss) for row in rows if row.loss is not None]
    # A loss of advantages is about zero, whatever is learned.
    rewards = [(row.step, row.figures["reward"]) for row in rows if "reward" in row.figures]
    points = rewards or points
    panel.plot([step for step, _ in points], [loss for _, loss in points], linewidth=0.9)
    if held_out := [(row.step, row.eval_loss) for row in rows if row.eval_loss is not None]:
        panel.lines[0].set_label("training")
        steps, losses = zip(*held_out, strict=True)
        panel.plot(steps, losses, marker="o", markersize=3, linewidth=0.9, label="held out")
        panel.legend()
    panel.set(title=title, xlabel="step", ylabel="reward" if rewards else "loss")
    panel.set_yscale("linear" if rewards else "log")
    panel.grid(alpha=0.3)
    path = run_dir / "loss.png"
    figure.savefig(path, dpi=120)
    return path
