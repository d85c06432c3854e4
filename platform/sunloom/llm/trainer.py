"""Training runs: a base model or a LoRA adapter trained, measured, registered and promoted.

A run is identified by the fingerprint of what decides the weights: a version that the same recipe
made before is used again. What was trained from a model is judged beside it, and promoted if that
passes the recipe's gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from sunloom.core.trackers import end_tracked, resolve_tracking
from sunloom.errors import UsageError
from sunloom.evaluation.gate import GateDecision, decide
from sunloom.llm.base_models import require_start, resolve_adapter, resolve_model
from sunloom.llm.conversation_files import hash_files
from sunloom.llm.conversation_split import ConversationSplit, load_split
from sunloom.llm.conversations import load_conversation_source
from sunloom.llm.judging import Judges, ModelScores, judge_adapter, judge_tuned, load_judges
from sunloom.llm.model_cards import write_card
from sunloom.llm.model_comparison import REPORT, compare_scores, promote_judged, report_scores
from sunloom.llm.models import (
    ADAPTER_KIND,
    BASE_KIND,
    REWARD_KIND,
    build_llama,
    load_tokenizer,
    served_by_merging,
    stored_parameter_count,
)
from sunloom.llm.resuming import RunIdentity
from sunloom.llm.rewards import REWARD_GROUP
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

if TYPE_CHECKING:
    from sunloom.llm.loop import TrainingOutcome

_FINAL_STEPS = 20
# Where and how durably the work runs decides no weight.
_NO_IDENTITY = (
    "resume_from", "max_failures", "keep_checkpoints", "checkpoint_every", "accelerator",
    "trackers", "min_workers", "resize_interval_s", "pass_tokens", "peak_flops",
)  # fmt: skip
# Defaults, which fingerprints leave out.
_EARLIER_EVERY, _EARLIER_SAMPLE = 100, 48
# Where a conversation was read from, and why others are left out: those that are left are compared.
_NO_IDENTITY_OF_DATA = ("train", "held_out_share", "near_duplicates", "contamination")
_REQUESTS_OF_A_JUDGE = ("base_url", "api_key", "concurrency", "retries", "timeout_s", "prices")
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


@dataclass(frozen=True)
class ResolvedTraining:
    """A training whose names are looked up and whose data are read.

    Attributes:
        recipe: Of it.
        registry: Where the result goes.
        kind: Of model.
        location: Folder or hub id of the model that is trained from; None where one is built.
        base: What lineage calls it.
        adapter: Folder of the adapter that is trained on; None starts a new one.
        data: Learned from and judged on.
        identity: Fingerprint of what decides the weights.
    """

    recipe: LlmRecipe
    registry: ModelRegistry
    kind: str
    location: str | None
    base: str | None
    adapter: Path | None
    data: ConversationSplit
    identity: str


@dataclass(frozen=True)
class Judge:
    """How the result of a training is judged.

    Attributes:
        judges: By which.
        score: Scores of what training started from and of its result.
    """

    judges: Judges
    score: Callable[[], tuple[ModelScores, ModelScores]]


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
    return _train(recipe, "llm-base")


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
    return _train(recipe, "llm-adapter")


def _train(recipe: LlmRecipe, kind_of_run: str) -> TrainingResult:
    training = resolve_training(recipe)
    if (reused := reuse_registered(training)) is not None:
        return reused
    # Torch loads here: a reused model must not wait for it.
    from sunloom.llm.launch import train_on_workers

    recipe = training.recipe
    with run_of_this_process(recipe, kind_of_run) as run, _note_failure(recipe, run):
        tokenizer, location = find_start(training, run.directory)
        # Before the first step: what cannot be judged would only be met after the last one.
        judge = prepare_judge(training, tokenizer, location, run.directory / "export")
        outcome = train_on_workers(
            recipe,
            run,
            training.data,
            identity=RunIdentity(training.identity, training.data.digest, recipe.output.tenant),
            tokenizer=tokenizer,
            location=location,
            base=training.base if recipe.is_adapter and training.base else "",
            adapter=training.adapter,
        )
        return finish_training(training, run, outcome, judge)


def resolve_training(recipe: LlmRecipe) -> ResolvedTraining:
    """Look up what a recipe names, and read its data.

    Raises:
        UsageError: An adapter has no base, or the output's name is another model's.
        NotFoundError: A name is unknown.
    """
    require_start(recipe)
    registry, output = open_registry(recipe), recipe.output
    kind = ADAPTER_KIND if recipe.is_adapter else BASE_KIND
    kind = REWARD_KIND if recipe.is_reward_model else kind
    # Before the work, and before a registered version is reused: reuse moves an alias too.
    registry.check_name(output.name, kind, output.tenant)
    location = base = adapter = None
    if recipe.model.base_model is not None:
        location, base = resolve_model(recipe.model, registry)
        if recipe.is_adapter:
            recipe, adapter = resolve_adapter(recipe, registry, base)
    return ResolvedTraining(
        recipe=recipe,
        registry=registry,
        kind=kind,
        location=location,
        base=base,
        adapter=adapter,
        data=load_split(recipe),
        identity=recipe_fingerprint(recipe, base),
    )


def find_start(training: ResolvedTraining, folder: Path) -> tuple[Any, str]:
    """Tokenizer and location of the starting weights; builds both where no model is named.

    Args:
        training: Whose.
        folder: Gets ``start/`` with what is built; all workers must see it.
    """
    recipe, data = training.recipe, training.data
    if training.location is not None:
        return load_tokenizer(training.location, recipe.model), training.location
    shape = recipe.model.architecture
    wanted = shape.tokenizer_conversations
    if recipe.data.train:
        samples = data.train.sample(wanted)
    else:
        # A plugin makes as many as it is asked for, whatever the steps need.
        source = load_conversation_source(recipe.data.conversations)
        samples = source.train(wanted, recipe.seed)[:wanted]
    tokenizer = build_tokenizer(conversation_texts(samples), shape.vocabulary, shape.max_length)
    start = folder / "start"
    tokenizer.save_pretrained(str(start))
    build_llama(shape, tokenizer, recipe.seed).save_pretrained(str(start))
    return tokenizer, str(start)


def prepare_judge(
    training: ResolvedTraining, tokenizer: Any, location: str, export: Path
) -> Judge | None:
    """Load all that judging needs; None where the result is not judged.

    Args:
        training: Its held-out conversations that cannot be judged are set aside.
        tokenizer: Of the model.
        location: Of the starting weights.
        export: Folder that will hold the result.

    Raises:
        DataError: No held-out conversation can be judged.
    """
    recipe, data = training.recipe, training.data
    if not recipe.is_judged:
        return None
    judges = load_judges(recipe)
    data.require_judgeable(tokenizer, recipe.longest_row)
    if not recipe.is_adapter:
        return Judge(
            judges,
            partial(judge_tuned, recipe, judges, data.held_out, start=location, export=export),
        )
    # Against what training started from: an earlier adapter, or the base alone.
    score = partial(
        judge_adapter,
        recipe,
        judges,
        data.held_out,
        location=location,
        adapter=export,
        start=training.adapter,
    )
    return Judge(judges, score)


def finish_training(
    training: ResolvedTraining, run: Run, outcome: TrainingOutcome, judge: Judge | None
) -> TrainingResult:
    """Judge, register, draw, and promote what a run has trained.

    Args:
        training: Of the run.
        run: Its folder has the export and the progress; it gets the reports.
        outcome: What the workers returned.
        judge: None judges nothing.
    """
    recipe, output, export = training.recipe, training.recipe.output, run.directory / "export"
    lineage = {
        "fingerprint": training.identity,
        "data": training.data.digest,
        "run": run.run_id,
        "base": training.base,
    }
    if training.adapter is not None:
        lineage["start"] = str(recipe.model.adapter)
    version = _register_judged(
        recipe, training.registry, training.kind, run, outcome=outcome, lineage=lineage, judge=judge
    )
    if training.kind == ADAPTER_KIND and (own := served_by_merging(export)) is not None:
        get_logger("llm").warning(
            "%s has %s, which vLLM cannot add to a base: serve what sunloom llm merge %s makes",
            version.ref,
            own,
            version.ref,
        )
    plot_losses(run.directory, f"{output.name}: {'adapter' if recipe.is_adapter else 'base'}")
    return _publish(recipe, training.registry, version, run.directory)


def _register_judged(
    recipe: LlmRecipe,
    registry: ModelRegistry,
    kind: str,
    run: Run,
    *,
    outcome: TrainingOutcome,
    lineage: dict[str, Any],
    judge: Judge | None,
) -> ModelVersion:
    """Register a run's export with its scores; the run's folder gets their report.

    Args:
        recipe: What was trained.
        registry: Where it is registered.
        kind: Of model.
        run: Its folder has the export.
        outcome: What the workers returned.
        lineage: Of the version.
        judge: None judges nothing.
    """
    folder, output = run.directory, recipe.output
    export = folder / "export"
    metrics = asdict(measure_training(export, outcome, recipe.training))

    def register(metrics: dict[str, Any]) -> ModelVersion:
        # Over the template that PEFT writes.
        write_card(
            export,
            output.name,
            registry=registry,
            relation=("adapter" if recipe.is_adapter else "finetune") if lineage["base"] else None,
            metrics=metrics,
            lineage=lineage,
            recipe=recipe,
        )
        return registry.register(output.name, kind, export, metrics, lineage, tenant=output.tenant)

    if judge is None:
        return register(metrics)
    start = str(lineage.get("start") or lineage["base"] or "start")
    try:
        before, after = judge.score()
        scores = {start: before, output.name: after}
        report = report_scores(f"{output.name} and what it was trained from", scores, judge.judges)
    except Exception:
        # What was learned is kept, without scores and so without the alias.
        version = register(metrics)
        get_logger("llm").error("%s is registered, but judging it failed", version.ref)
        raise
    version = register(metrics | asdict(compare_scores(before, after, report)))
    replace(report, models=(start, version.ref)).save(folder / REPORT)
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
    if cases := [judge.path for judge in recipe.evaluation.safety if judge.path is not None]:
        parts["cases"] = [hash_files(path) for path in cases]
    parts["data"] = {k: v for k, v in parts["data"].items() if k not in _NO_IDENTITY_OF_DATA}
    if training.get("early_stopping") is not None:
        # What ends the run decides the weights; these keys had other names.
        stop, evaluation = training["early_stopping"], recipe.evaluation
        if recipe.eval_steps != _EARLIER_EVERY:
            stop["every"] = recipe.eval_steps
        if evaluation.eval_sample != _EARLIER_SAMPLE:
            stop["held_out"] = evaluation.eval_sample
    for key in ("eval_steps", "eval_sample", "benchmark_batch_size", "no_regression"):
        parts["evaluation"].pop(key, None)
    _leave_out_bars(parts["evaluation"])
    if isinstance(recipe.training.objective, Grpo):
        parts["rewards"] = [_reward_identity(term) for term in recipe.training.objective.rewards]
    if recipe.data.train:
        return fingerprint(parts, training, "files", [], base)
    name = recipe.data.conversations
    # The code of a source may change under the same name: its conversations are another model.
    conversations = load_conversation_source(name).train(64, recipe.seed)
    sample = [{"messages": c.messages, "tools": c.tools} for c in conversations]
    return fingerprint(parts, training, plugin_value("sunloom.conversations", name), sample, base)


def _leave_out_bars(evaluation: dict[str, Any]) -> None:
    """Leave out what changes neither weights nor scores; the gate decides anew on reuse."""
    for judge in (*evaluation.get("safety", ()), evaluation.get("llm_judge") or {}):
        for key in [*judge]:
            is_bar = key.startswith(("min_", "max_")) and key != "max_tokens"
            if is_bar or key in _REQUESTS_OF_A_JUDGE:
                del judge[key]


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


def reuse_registered(training: ResolvedTraining) -> TrainingResult | None:
    """The version that the same recipe and data made before, promoted if its gate holds.

    None where there is no such version, its files are damaged, judging it failed, or the recipe
    forbids reuse.
    """
    recipe, registry, data = training.recipe, training.registry, training.data
    identity = training.identity
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
    """Promote a version whose gate holds; the decision is kept with it and in its report."""
    # What is not judged has no rules to fail.
    decision = GateDecision(passed=True, alias=recipe.output.alias, rules=())
    if recipe.is_judged:
        decision = decide(version.metrics, recipe.evaluation, recipe.output.alias)
    result = promote_judged(registry, version, decision, folder, reused=reused)
    version = result.version
    if not reused:
        tags = {"model": version.ref, "uri": version.uri, "promoted": str(result.promoted)}
        end_tracked(folder, resolve_tracking(recipe), "FINISHED", version.metrics, tags)
    return result


@contextmanager
def _note_failure(recipe: LlmRecipe, run: Run) -> Iterator[None]:
    """Let trackers know that a run ends without a result."""
    try:
        yield
    except BaseException:
        end_tracked(run.directory, resolve_tracking(recipe), "FAILED")
        raise


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
