"""A search over keys of a recipe on Ray Tune, each trial a training on Ray Train.

Trials whose data keys are equal share their tokens. The winner is judged, gated, registered and
promoted like the result of any training.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sunloom.config.llm import LlmRecipe
from sunloom.config.llm_tune import TuneConfig
from sunloom.config.loading.model import dump_identity, save_resolved
from sunloom.core.artifacts import fingerprint
from sunloom.core.cluster import connect
from sunloom.core.interrupts import keep_signal_handlers
from sunloom.core.model_registry import TrainingResult
from sunloom.core.progress import PROGRESS_FILE
from sunloom.core.runs import run_of_this_process
from sunloom.core.telemetry import get_logger
from sunloom.core.trackers import TRACKERS_FILE, require_trackers, resolve_tracking
from sunloom.errors import ConflictError, TrainingError, UsageError
from sunloom.llm.launch import (
    TokenStores,
    build_task,
    count_steps,
    require_layers,
    write_stores,
)
from sunloom.llm.model_comparison import compare_scores, report_scores
from sunloom.llm.resuming import EVALUATIONS_FILE, RunIdentity, claim_run
from sunloom.llm.trainer import (
    FINGERPRINT_KEYS,
    Judge,
    ResolvedTraining,
    find_start,
    finish_training,
    prepare_judge,
    recipe_fingerprint,
    resolve_training,
    reuse_registered,
)
from sunloom.llm.trials import (
    TRIAL_STATES,
    TrialResult,
    TrialRun,
    TrialTask,
    draw_parameters,
    forget_failed,
    read_outcome,
    read_trial,
)
from sunloom.llm.tuning_report import write_report

# A trial's workers have their own; Tune refuses a trial that needs nothing, so it gets a byte.
_RESOURCES = {"cpu": 0, "memory": 1}


@dataclass(frozen=True)
class TuningResult:
    """Outcome of a search.

    Attributes:
        trials: In the order of drawing.
        best: The trial that won.
        model: The registered winner.
        report: HTML page with the table and the plots.
        table: JSON of all trials.
    """

    trials: tuple[TrialResult, ...]
    best: TrialResult
    model: TrainingResult
    report: Path
    table: Path

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metrics of the winner, and the search in numbers."""
        states = [trial.state for trial in self.trials]
        counts = {name: states.count(name) for name in TRIAL_STATES}
        best = {"trial": self.best.number, "score": self.best.score, **self.best.parameters}
        return {**self.model.metrics, "trials": counts, "best": best}

    @property
    def artifacts(self) -> dict[str, str]:
        """The registered model, its files, and the report."""
        found = {"tuning_report": str(self.report), "trials": str(self.table)}
        return {**self.model.artifacts, **found}


@dataclass(frozen=True)
class _Group:
    """Trials that learn from the same tokens, and start from the same weights."""

    training: ResolvedTraining
    tokenizer: Any
    location: str
    stores: TokenStores


def tune_model(recipe: LlmRecipe) -> TuningResult:
    """Search the recipe's space, and register the winner.

    The same command goes on with a search that was killed: trials that ended are kept. One whose
    ``output.reuse`` is false starts anew.

    Args:
        recipe: With a section ``tune``.

    Raises:
        UsageError: There is none, or a trial's recipe is not valid.
        ConflictError: Another process searches the same.
        TrainingError: No trial did all its steps.
    """
    tune = recipe.tune
    if tune is None:
        raise UsageError(
            "The recipe has no section tune.",
            "tune: {space: {training.learning_rate: {type: loguniform, low: 1e-4, high: 1e-2}}}",
            "tune",
        )
    require_trackers(recipe.training.trackers, resolve_tracking(recipe))
    drawn = draw_parameters(tune, recipe.seed)
    recipes = [_recipe_of(recipe, number, values) for number, values in enumerate(drawn)]
    first = resolve_training(recipes[0])
    identity = RunIdentity(_fingerprint(recipe, tune), first.data.digest, recipe.output.tenant)
    name = f"{recipe.output.name}-{fingerprint(asdict(identity))[:8]}"
    folder = recipe.paths.outputs / "llm" / "tune" / name
    if not recipe.output.reuse:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    folders = [folder / f"{name}-{number:03d}" for number in range(len(drawn))]
    try:
        with claim_run(folder, identity):
            forget_failed(path for path in folders if path.is_dir())
            groups = _prepare(recipes, first, folder)
            trials = _build_trials(tune, recipes, drawn, folders, groups)
            connect(recipe)
            search_trials(tune, trials, folder)
    except BlockingIOError as error:
        raise ConflictError(
            f"Another process searches the same in {folder}.", "Wait for it, or end it."
        ) from error
    results = tuple(found for path in folders if (found := read_trial(path)) is not None)
    best = _choose(results, tune)
    table, report = write_report(results, best, tune, folder)
    group = groups[_group_of(recipes[best.number])]
    model = _register(recipes[best.number], group, folders[best.number])
    return TuningResult(results, best, model, report, table)


def _recipe_of(recipe: LlmRecipe, number: int, values: Mapping[str, Any]) -> LlmRecipe:
    try:
        return recipe.with_values(values)
    except ValueError as error:
        raise UsageError(
            f"Trial {number} ({values}) has no valid recipe: {error}",
            "Narrow tune.space.",
            "tune.space",
        ) from error


def _fingerprint(recipe: LlmRecipe, tune: TuneConfig) -> str:
    """Of all that trials have in common; more of them belong to the same search."""
    parts = {
        key: dump_identity(getattr(recipe, key), FINGERPRINT_KEYS, f"{key}.")
        for key in ("model", "data", "training", "lora", "evaluation")
    }
    searched = tune.model_dump(mode="json", exclude={"trials", "concurrent"})
    return fingerprint(recipe.seed, parts, searched)


def _group_of(recipe: LlmRecipe) -> str:
    """What decides a trial's tokens and starting weights."""
    evaluation, training = recipe.evaluation, recipe.training
    parts = [recipe.model, recipe.data, evaluation]
    made = (training.max_steps, training.conversations_a_step) if not recipe.data.train else None
    kinds = (recipe.is_adapter, training.objective.type, recipe.eval_steps, training.workers)
    return fingerprint([part.model_dump(mode="json") for part in parts], made, kinds)[:12]


def _prepare(
    recipes: Sequence[LlmRecipe], first: ResolvedTraining, folder: Path
) -> dict[str, _Group]:
    """Tokens of each group of trials, written once."""
    groups: dict[str, _Group] = {}
    for number, recipe in enumerate(recipes):
        key = _group_of(recipe)
        if key in groups:
            continue
        training = first if number == 0 else resolve_training(recipe)
        data = folder / f"data-{key}"
        data.mkdir(exist_ok=True)
        tokenizer, location = find_start(training, data)
        # What cannot be judged is met before the first step.
        prepare_judge(training, tokenizer, location, data)
        stores = write_stores(training.recipe, training.data, tokenizer, data)
        training.data.write_quarantine(data)
        groups[key] = _Group(training, tokenizer, location, stores)
    return groups


def _build_trials(
    tune: TuneConfig,
    recipes: Sequence[LlmRecipe],
    drawn: Sequence[Mapping[str, Any]],
    folders: Sequence[Path],
    groups: Mapping[str, _Group],
) -> list[TrialTask]:
    trials = []
    for number, (recipe, values, directory) in enumerate(zip(recipes, drawn, folders, strict=True)):
        group = groups[_group_of(recipe)]
        training = _training_of(recipe, group)
        require_layers(training.recipe, group.location, training.adapter)
        counted = count_steps(training.recipe, len(group.stores.tokenised.rows))
        directory.mkdir(exist_ok=True)
        # What the trial's trackers note as its parameters.
        save_resolved(counted, directory)
        task = build_task(
            counted,
            directory,
            group.stores,
            training.data,
            pad=group.tokenizer.pad_token_id,
            location=group.location,
            base=training.base if counted.is_adapter and training.base else "",
            adapter=training.adapter,
            is_paced=counted.eval_steps is not None,
        )
        measure = None
        if tune.metric != "eval_loss":
            judge = prepare_judge(training, group.tokenizer, group.location, directory / "export")
            measure = partial(_measure, judge, tune.metric)
        trials.append(TrialTask(number, values, task, measure, group.tokenizer.save_pretrained))
    return trials


def _training_of(recipe: LlmRecipe, group: _Group) -> ResolvedTraining:
    """A trial's own training, with the data of its group."""
    shared = group.training
    # The model section is the group's, adapter's version included.
    own = recipe.model_copy(update={"model": shared.recipe.model})
    return replace(shared, recipe=own, identity=recipe_fingerprint(own, shared.base))


def _measure(judge: Judge | None, metric: str) -> float:
    """A figure of the gate.

    Raises:
        UsageError: The recipe's judges give no such figure.
    """
    figures: dict[str, float] = {}
    if judge is not None:
        before, after = judge.score()
        report = report_scores("trial", {"start": before, "trial": after}, judge.judges)
        scores = asdict(compare_scores(before, after, report))
        judged = {name: figure["trained"] for name, figure in scores["figures"].items()}
        figures = {k: v for k, v in (scores | judged).items() if isinstance(v, int | float)}
    value = figures.get(metric)
    if value is None:
        raise UsageError(
            f"There is no figure {metric}.", f"Known: {', '.join(figures)}", "tune.metric"
        )
    return float(value)


def search_trials(tune: TuneConfig, trials: Sequence[TrialTask], folder: Path) -> None:
    """Run trials on Ray Tune, connected to a cluster; each leaves its record in its folder.

    Args:
        tune: How many at once, and when one ends early.
        trials: What is run.
        folder: Tune's own records while it runs.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Only the old output heeds verbose=0.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    from ray import tune as ray_tune
    from ray.tune.logger import JsonLoggerCallback
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    class LlmTrial(ray_tune.Trainable):
        """A trial that Tune steps from evaluation to evaluation."""

        def setup(self, config: dict[str, Any], trials: Sequence[TrialTask]) -> None:
            self._trials = trials
            self._run = TrialRun(trials[config["number"]])

        def step(self) -> Any:
            return asdict(self._run.next_evaluation())

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            # The next trial in this process, which has made its imports.
            self._run.stop()
            self._run = TrialRun(self._trials[new_config["number"]])
            return True

        def cleanup(self) -> None:
            # Tune waits: the workers' reservation is free for the next trial then.
            self._run.stop()

    class TrialLog(ray_tune.Callback):
        """Says where each trial is."""

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            del iteration, trials, info
            get_logger("llm").info(
                "trial %d: step %d, evaluation loss %.4f",
                trial.config["number"],
                result["step"],
                result["eval_loss"],
            )

    scheduler = FIFOScheduler()
    if tune.asha is not None:
        most = max(trial.task.training.max_steps for trial in trials)
        scheduler = ASHAScheduler(
            time_attr="step",
            max_t=most,
            grace_period=min(tune.asha.grace, most),
            reduction_factor=tune.asha.reduction,
        )
    records = folder / "tune"
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(LlmTrial, trials=list(trials)), _RESOURCES
        ),
        # Drawn beforehand: the same trials whatever the scheduler.
        param_space={"number": ray_tune.grid_search([trial.number for trial in trials])},
        tune_config=ray_tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            scheduler=scheduler,
            max_concurrent_trials=tune.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(folder.absolute()),
            verbose=0,
            # Checkpoints are the trainings' own.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[TrialLog(), JsonLoggerCallback()],
        ),
    )
    try:
        # Tune would take Ctrl-C for the end of the search.
        with keep_signal_handlers():
            results = tuner.fit()
    finally:
        shutil.rmtree(records, ignore_errors=True)
    for error in results.errors:
        get_logger("llm").warning("a trial failed: %s", str(error).strip().splitlines()[-1])


def _choose(results: Sequence[TrialResult], tune: TuneConfig) -> TrialResult:
    scored = [trial for trial in results if trial.state == "finished" and trial.score is not None]
    if not scored:
        reasons = {trial.error for trial in results if trial.error}
        raise TrainingError(
            f"None of {len(results)} trials did all its steps: {'; '.join(sorted(reasons))}",
            "Widen tune.space, or set tune.asha=null.",
        )
    sign = 1 if tune.is_lower_better else -1
    return min(scored, key=lambda trial: sign * (trial.score or 0.0))


def _register(recipe: LlmRecipe, group: _Group, trial: Path) -> TrainingResult:
    """Judge, register and promote a trial's model, as if its recipe had been trained alone."""
    training = _training_of(recipe, group)
    if (reused := reuse_registered(training)) is not None:
        return reused
    with run_of_this_process(recipe, "llm-tune") as run:
        save_resolved(training.recipe, run.directory)
        shutil.copytree(trial / "export", run.directory / "export")
        for name in (PROGRESS_FILE, EVALUATIONS_FILE, TRACKERS_FILE):
            if (trial / name).is_file():
                shutil.copyfile(trial / name, run.directory / name)
        judge = prepare_judge(training, group.tokenizer, group.location, run.directory / "export")
        return finish_training(training, run, read_outcome(trial), judge)
