"""Ray Train runs: encoded conversations handed to the workers, and what the workers return."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sunloom.config.llm import DeepSpeed, Grpo, LlmRecipe, TrainingConfig
from sunloom.config.loading.model import RESOLVED
from sunloom.core.cluster import connect
from sunloom.core.files import write_atomic
from sunloom.core.interrupts import keep_signal_handlers
from sunloom.core.progress import read_progress
from sunloom.core.runs import Run
from sunloom.core.telemetry import progress_bar
from sunloom.core.trackers import require_trackers, resolve_tracking
from sunloom.errors import DataError, DivergedError, TrainingError, UsageError
from sunloom.llm.checkpoints import newest_whole
from sunloom.llm.conversation_split import ConversationSplit
from sunloom.llm.encoding import encode
from sunloom.llm.loop import (
    Evaluations,
    TrainingOutcome,
    TrainingTask,
    find_checkpoint,
    plan_batches,
    run_worker,
)
from sunloom.llm.models import build_without_weights, require_modules
from sunloom.llm.packing import require_packing
from sunloom.llm.resuming import (
    PROMPTS,
    TOKENS,
    VALIDATION,
    RunIdentity,
    claim_run,
    continue_unfinished,
)
from sunloom.llm.rewards import RewardSum, columns_of
from sunloom.llm.rollouts import warn_of_merging
from sunloom.llm.token_store import TokenRows, write_tokens
from sunloom.llm.tokenising import Tokenised

# By default a report waits up to two seconds for the controller's next look.
_HEALTH_CHECK_S = "0.2"
DIVERGED_FILE = "diverged.json"
"""In the folder of a run that stopped at a loss or gradient that was not finite: the step, what was
not, where the step's rows come from, and the last good checkpoint."""
# Rows that an error names; the file has all.
_NAMED_ROWS = 8


def train_on_workers(
    recipe: LlmRecipe,
    run: Run,
    data: ConversationSplit,
    *,
    identity: RunIdentity,
    tokenizer: Any,
    location: str,
    base: str,
    adapter: Path | None = None,
) -> TrainingOutcome:
    """Encode the recipe's conversations and train on them; the run's folder gets ``export/``.

    Args:
        recipe: What is trained.
        run: Its folder gets conversations, checkpoints, progress and export.
        data: What is learned from.
        identity: An unfinished run of the same is gone on from.
        tokenizer: The model's tokenizer, exported beside the weights.
        location: Folder or hub id of the starting weights.
        base: What an adapter names as its base.
        adapter: Folder of the adapter that is trained on; None starts a new one.

    Raises:
        UsageError: There is less than one conversation for each worker, nothing to resume, or no
            such module to save.
        DataError: No conversation can be learned from.
        DivergedError: The loss or its gradient was not finite.
        TrainingError: The workers failed.
    """
    require_trackers(recipe.training.trackers, resolve_tracking(recipe))
    require_layers(recipe, location, adapter)
    if isinstance(recipe.training.objective, Grpo):
        warn_of_merging(recipe.lora if recipe.is_adapter else None)
    # Once: every worker and every restart maps the same rows.
    stores = write_stores(recipe, data, tokenizer, run.directory)
    data.write_quarantine(run.directory)
    recipe = count_steps(recipe, len(stores.tokenised.rows))
    with claim_run(run.directory, identity):
        recipe = continue_unfinished(recipe, run.directory, identity)
        check_resume(recipe)
        connect(recipe)
        task = build_task(
            recipe,
            run.directory,
            stores,
            data,
            pad=tokenizer.pad_token_id,
            location=location,
            base=base,
            adapter=adapter,
        )
        outcome = launch(
            task,
            f"training {recipe.output.name}",
            lambda rows: data.name_places(stores.tokenised.numbers[list(rows)].tolist()),
        )
    tokenizer.save_pretrained(str(run.directory / "export"))
    return outcome


def require_layers(recipe: LlmRecipe, location: str, adapter: Path | None) -> None:
    """Refuse packing and modules to save that the model cannot have, before anything is trained.

    Args:
        recipe: What is trained.
        location: Folder or hub id of the starting weights.
        adapter: Folder of the adapter that is trained on.

    Raises:
        UsageError: One of both is so.
    """
    if recipe.training.packing:
        require_packing(build_without_weights(location, recipe.model))
    if recipe.is_adapter and recipe.lora.modules_to_save and adapter is None:
        is_quantised = recipe.training.method == "qlora"
        shape = build_without_weights(location, recipe.model)
        require_modules(shape, recipe.lora, is_quantised=is_quantised)


@dataclass(frozen=True)
class TokenStores:
    """Tokens of a run on disk.

    Attributes:
        folder: Of what is trained on.
        tokenised: The same.
        validation: Folder of what is evaluated on during the run, where that is done.
    """

    folder: Path
    tokenised: Tokenised
    validation: Path | None


def write_stores(
    recipe: LlmRecipe, data: ConversationSplit, tokenizer: Any, folder: Path
) -> TokenStores:
    """Tokenise what a run learns from and is evaluated on.

    Args:
        recipe: The run's.
        data: Conversations.
        tokenizer: The model's.
        folder: Gets the stores; all workers must see it.

    Raises:
        UsageError: There is less than one conversation for each worker.
        DataError: No conversation can be learned from, or evaluated on.
    """
    tokenised = data.tokenise(tokenizer, recipe.longest_row, folder / TOKENS)
    rows, workers = len(tokenised.rows), recipe.training.workers
    if rows < workers:
        raise UsageError(
            f"{rows} conversations cannot be divided among {workers} workers.",
            "Lower training.workers, or train on more conversations.",
            "training.workers",
        )
    if isinstance(recipe.training.objective, Grpo):
        _write_prompts(recipe.training.objective, data, tokenised, folder)
    if recipe.eval_steps is None:
        return TokenStores(folder / TOKENS, tokenised, None)
    held_out = encode(tokenizer, data.validation, recipe.data.max_length)
    if not held_out:
        raise DataError(
            "No held-out conversation can be evaluated during training.",
            "sunloom llm prepare RECIPE shows what becomes of each row.",
            "evaluation.eval_steps",
        )
    write_tokens(held_out, folder / VALIDATION)
    return TokenStores(folder / TOKENS, tokenised, folder / VALIDATION)


def build_task(
    recipe: LlmRecipe,
    directory: Path,
    stores: TokenStores,
    data: ConversationSplit,
    *,
    pad: int,
    location: str,
    base: str,
    adapter: Path | None = None,
    is_paced: bool = False,
) -> TrainingTask:
    """What the workers are given.

    Args:
        recipe: What is trained, with its number of steps.
        directory: The run's folder.
        stores: Its tokens.
        data: Its conversations, of which those that early stopping judges by go along.
        pad: Token id that fills short rows.
        location: Folder or hub id of the starting weights.
        base: What an adapter names as its base.
        adapter: Folder of the adapter that is trained on; None starts a new one.
        is_paced: Whether each evaluation waits for word whether to go on.
    """
    evaluations = None
    if recipe.eval_steps is not None and stores.validation is not None:
        stopping = recipe.training.early_stopping
        by_score = stopping is not None and stopping.metric == "exact_match"
        evaluations = Evaluations(
            every=recipe.eval_steps,
            rows=stores.validation,
            stopping=stopping,
            conversations=tuple(data.validation) if by_score else (),
            gate=recipe.evaluation,
            is_paced=is_paced,
        )
    return TrainingTask(
        model=location,
        base=base,
        data=stores.folder,
        directory=directory,
        pad=pad,
        seed=recipe.seed,
        training=recipe.training,
        lora=recipe.lora if recipe.is_adapter else None,
        evaluations=evaluations,
        options=recipe.model,
        adapter=adapter,
        tracking=resolve_tracking(recipe),
        max_length=recipe.data.max_length,
    )


def _write_prompts(
    objective: Grpo, data: ConversationSplit, tokenised: Tokenised, folder: Path
) -> None:
    """Messages and columns of the rows in order, for rewards; checked before the first step.

    Raises:
        UsageError: A row lacks a column that a reward compares with.
        PluginError: A reward fails on an empty completion of the first one.
    """
    rewards = RewardSum(objective.rewards)
    prompts = data.train.load_all(tokenised.numbers.tolist())
    for prompt in prompts:
        rewards.require_columns(prompt)
    rewards(prompts[0].messages, columns_of(prompts[0]), "")
    lines = [
        json.dumps({"messages": prompt.messages, "columns": columns_of(prompt)})
        for prompt in prompts
    ]
    write_atomic(folder / PROMPTS, "\n".join(lines))


def check_resume(recipe: LlmRecipe) -> None:
    """Refuse to resume a run that has nothing to go on from.

    Raises:
        UsageError: It has no whole checkpoint, has all its steps, trained something else, or its
            checkpoint is for another number of workers.
    """
    earlier, key = recipe.training.resume_from, "training.resume_from"
    if earlier is None:
        return
    newest = newest_whole(earlier / "train")
    if newest is None:
        raise UsageError(
            f"{earlier} has no whole checkpoint to resume from.",
            "Name the folder of a run, as its first line of log does: <outputs>/runs/<run id>.",
            key,
        )
    if newest.step >= recipe.training.max_steps:
        raise UsageError(
            f"The run in {earlier} has done {newest.step} of {recipe.training.max_steps} steps.",
            "Raise training.max_steps, or leave out training.resume_from.",
            key,
        )
    workers = recipe.training.workers
    if isinstance(recipe.training.distributed, DeepSpeed) and newest.world_size != workers:
        raise UsageError(
            f"DeepSpeed's checkpoint {newest.path} is for {newest.world_size} workers, not "
            f"{workers}.",
            f"Set training.workers={newest.world_size}.",
            "training.workers",
        )
    resolved = earlier / RESOLVED
    before = yaml.safe_load(resolved.read_text()) if resolved.is_file() else {}
    now = recipe.model_dump(mode="json")
    for name in ("model", "lora"):
        if name in before and before[name] != now[name]:
            raise UsageError(
                f"The run in {earlier} was made with another {name} section.",
                f"Its recipe is {resolved}.",
                key,
            )


def count_steps(recipe: LlmRecipe, rows: int) -> LlmRecipe:
    """The recipe with the steps of its epochs, where it names these.

    Args:
        recipe: What is trained.
        rows: Of a pass over the data.
    """
    training = recipe.training
    if training.epochs is None:
        return recipe
    size, objective = min(training.rows_a_step, rows), training.objective
    passes = objective.num_iterations if isinstance(objective, Grpo) else 1
    steps = passes * max(1, round(training.epochs * (rows // size)))
    return recipe.model_copy(update={"training": training.model_copy(update={"max_steps": steps})})


def launch(
    task: TrainingTask, title: str, name_rows: Callable[[Sequence[int]], list[str]] | None = None
) -> TrainingOutcome:
    """Train, and return what the first worker returned.

    Args:
        task: The work; ``task.directory`` holds the checkpoints and the export afterwards.
        title: Text before the progress bar.
        name_rows: Where rows of ``task.data`` come from, by their numbers; for errors.

    Raises:
        DivergedError: The loss or the gradient was not finite; names the step, its rows and the
            last good checkpoint.
        TrainingError: The workers failed more often than allowed.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from sunloom.llm.ray_trainer import LeanTorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _HEALTH_CHECK_S)
    config = task.training
    # One thread a core: workers that compete for cores spend their time waiting.
    variables = {"OMP_NUM_THREADS": str(config.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    trainer = LeanTorchTrainer(
        run_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=build_scaling_config(config),
        run_config=RunConfig(
            # The folder is unique to the run, or Ray would silently resume an older one.
            name="train",
            storage_path=str(task.directory),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=FailureConfig(max_failures=config.max_failures),
            worker_runtime_env={"env_vars": variables},
        ),
    )
    try:
        # Ray Train would leave with status 0 on Ctrl-C.
        with keep_signal_handlers(), _follow_progress(task, title):
            outcome: TrainingOutcome = trainer.fit().return_value
    except TrainingFailedError as error:
        raise TrainingError(
            f"The training workers failed: {error}",
            f"Whole checkpoints are kept in {task.directory / 'train'}; "
            "training.resume_from goes on from there.",
        ) from error
    # Returned by the workers, not raised there: Ray would restart them, to diverge again.
    if outcome.mismatch is not None:
        raise TrainingError(
            f"Step {outcome.first_step + len(outcome.losses)} was not made: {outcome.mismatch}",
            "Nothing has been learned from it. See that lora.target_modules names layers that vLLM "
            "knows; use model.torch_dtype=float32, or bound a difference that is meant by "
            "training.objective.max_mismatch.",
            "training.objective.max_mismatch",
        )
    if outcome.diverged is not None:
        raise _record_divergence(task, outcome, name_rows)
    return outcome


def _record_divergence(
    task: TrainingTask,
    outcome: TrainingOutcome,
    name_rows: Callable[[Sequence[int]], list[str]] | None,
) -> DivergedError:
    """What to raise; the run's folder gets the same, with all rows of the step."""
    step = outcome.first_step + len(outcome.losses)
    lengths = TokenRows(task.data).lengths.tolist()
    objective = task.training.objective
    passes = objective.num_iterations if isinstance(objective, Grpo) else 1
    batch = plan_batches(lengths, task.training, task.seed)[(step - 1) // passes]
    rows = name_rows(batch) if name_rows else [f"row {number}" for number in batch]
    checkpoint = find_checkpoint(task)
    record = {
        "step": step,
        "reason": outcome.diverged,
        "rows": rows,
        "checkpoint": str(checkpoint.path) if checkpoint else None,
    }
    path = task.directory / DIVERGED_FILE
    write_atomic(path, json.dumps(record, indent=2))
    more = f" and {len(rows) - _NAMED_ROWS} more ({path})" if len(rows) > _NAMED_ROWS else ""
    good = f"The last good checkpoint is {checkpoint.path}." if checkpoint else None
    return DivergedError(
        f"The {outcome.diverged} at step {step}; training stopped. "
        f"The step's rows: {', '.join(rows[:_NAMED_ROWS])}{more}.",
        f"{good or 'There is no checkpoint yet.'} Look at these rows, lower "
        "training.learning_rate, or use model.torch_dtype=float32.",
        "training.learning_rate",
    )


def build_scaling_config(config: TrainingConfig) -> Any:
    """Ray Train's ``ScalingConfig``: how many workers, and what each is given."""
    from ray.train import ScalingConfig

    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    if config.use_gpu:
        resources["GPU"] = 1
    least = config.min_workers
    return ScalingConfig(
        num_workers=config.workers if least is None else (least, config.workers),
        elastic_resize_monitor_interval_s=config.resize_interval_s,
        use_gpu=config.use_gpu,
        resources_per_worker=resources,
        accelerator_type=config.accelerator,
    )


@contextmanager
def _follow_progress(task: TrainingTask, title: str) -> Iterator[None]:
    """Show the steps that the first worker records."""
    ended = threading.Event()
    with progress_bar(title, task.training.max_steps) as bar:

        def advance_bar() -> None:
            shown = 0
            while not ended.wait(1.0):
                # The workers run in other processes, maybe on other machines: the shared folder is
                # what both sides see.
                steps = read_progress(task.directory)
                if steps and steps[-1].step > shown:
                    bar.advance(steps[-1].step - shown)
                    shown = steps[-1].step

        thread = threading.Thread(target=advance_bar, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
