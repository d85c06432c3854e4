"""Training of a tabular model on Ray: searched, evaluated, registered, promoted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.loading.model import dump_identity
from sunloom.config.tabular import GateConfig, TabularRecipe
from sunloom.core.artifacts import fingerprint
from sunloom.core.cluster import connect
from sunloom.core.files import write_atomic
from sunloom.core.model_registry import ModelRegistry, ModelVersion, TrainingResult, open_registry
from sunloom.core.telemetry import get_logger
from sunloom.data.arrays import FloatArray
from sunloom.data.sources.table_files import read_table
from sunloom.errors import UsageError
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.columns import Columns, build_columns, target
from sunloom.tabular.crossvalidation import TrainingData, Trial, assign_folds, fit_trial
from sunloom.tabular.evaluation import Evaluation, best_threshold, evaluate, plot_calibration
from sunloom.tabular.model import TabularModel
from sunloom.tabular.search import TrialScore, best_of_each, choose_winner, draw_trials, search

KIND = "tabular"


@dataclass(frozen=True)
class _TrainingSets:
    """Training and judging rows, their columns and targets."""

    train: pl.DataFrame
    judge: pl.DataFrame
    columns: Columns
    train_target: FloatArray
    judge_target: FloatArray


@dataclass(frozen=True)
class CandidateMetrics(Evaluation):
    """Metrics of an algorithm's best trial, fitted to all training rows.

    Attributes:
        cv_log_loss: Mean log loss in cross-validation.
        cv_standard_error: Of that mean.
        parameters: Hyperparameters.
        threshold: Probability from which the second label is predicted.
    """

    cv_log_loss: float
    cv_standard_error: float
    parameters: dict[str, Any]
    threshold: float


@dataclass(frozen=True)
class _Candidate:
    """An algorithm's best trial, fitted to all training rows and evaluated."""

    model: TabularModel
    metrics: CandidateMetrics


def train_tabular(recipe: TabularRecipe) -> TrainingResult:
    """Search on Ray Tune, evaluate at the later cut-off, register the winner, promote it.

    The winner is chosen by cross-validation inside the training cut-off alone; the judging rows
    are read once, to report and to decide on promotion.

    Args:
        recipe: Rows, algorithms, search, gate and output.

    Returns:
        The registered version with its metrics.

    Raises:
        UsageError: A rows file does not exist.
        DataError: A rows file cannot be read, or the rows lack a feature or a proper label.
        TrainingError: No trial finished.
    """
    rows = read_rows(recipe)
    registry, output = open_registry(recipe), recipe.output
    identity = _fingerprint(recipe, rows)
    registered = registry.find(output.name, identity) if output.reuse else None
    version = registered or _train(recipe, rows, registry, identity)
    metrics = version.metrics
    failures = gate_failures(metrics, recipe.gate)
    promoted = registry.promote_if_passed(version, output.alias, failures)
    get_logger("tabular").info("%s (%s): AUC %.4f", version.ref, metrics["winner"], metrics["auc"])
    folder = recipe.paths.outputs / "tabular" / version.name
    report = folder / "report.json"
    write_atomic(report, json.dumps(version.to_dict(), indent=1))
    plot = plot_calibration(folder / "calibration.png", metrics["algorithms"], metrics["winner"])
    return TrainingResult(
        version=version,
        promoted=promoted,
        reused=registered is not None,
        failures=failures,
        files={"calibration_plot": str(plot), "report": str(report)},
    )


def read_rows(recipe: TabularRecipe) -> _TrainingSets:
    """Read both cut-offs and check them against the recipe."""
    config = recipe.rows
    train = _read(rows_path(recipe, config.train_cutoff, config.train_path))
    judge = _read(rows_path(recipe, config.judge_cutoff, config.judge_path))
    # Targets first: without rows, a file of text has no numeric column either.
    targets = target(train, config.label), target(judge, config.label)
    return _TrainingSets(train, judge, build_columns(train, config), *targets)


def rows_path(recipe: TabularRecipe, cutoff: str, override: Path | None = None) -> Path:
    """The Parquet file with the rows of a cut-off."""
    folder = recipe.paths.outputs / "features" / recipe.rows.feature_set
    return override or folder / f"training_{cutoff}.parquet"


def gate_failures(metrics: Mapping[str, Any], gate: GateConfig) -> tuple[str, ...]:
    """What of the gate does not hold, in words; empty when all of it does."""
    failures = []
    # All three negated, so that NaN fails the gate.
    if not metrics["auc"] > gate.min_auc:
        failures.append(f"AUC {metrics['auc']:.4f} is not above {gate.min_auc}")
    if not metrics["calibration_error"] <= gate.max_calibration_error:
        error, bound = metrics["calibration_error"], gate.max_calibration_error
        failures.append(f"calibration error {error:.4f} exceeds {bound}")
    if gate.beat_base_rate and not metrics["log_loss"] < metrics["base_log_loss"]:
        loss, base = metrics["log_loss"], metrics["base_log_loss"]
        failures.append(f"log loss {loss:.4f} is not below the base rate's {base:.4f}")
    return tuple(failures)


def _train(
    recipe: TabularRecipe, rows: _TrainingSets, registry: ModelRegistry, identity: str
) -> ModelVersion:
    connect(recipe)
    matrix = rows.columns.matrix(rows.train)
    folds = assign_folds(rows.train_target, recipe.tuning.folds, recipe.seed)
    data = TrainingData(matrix, rows.train_target, folds)
    with tempfile.TemporaryDirectory(prefix="sunloom-tune-") as folder:
        trials = draw_trials(recipe.algorithms, recipe.seed)
        scores = search(trials, data, recipe.tuning, Path(folder) / "tune")
    best = best_of_each(scores)
    candidates = _refit(recipe, rows, data, best)
    winner = candidates[choose_winner(list(best.values()), recipe.tuning).trial.algorithm]
    metrics = asdict(winner.metrics) | {
        "winner": winner.model.algorithm,
        # Also the candidates that did not win: the calibration plot compares them.
        "algorithms": {name: asdict(candidate.metrics) for name, candidate in candidates.items()},
    }
    lineage = {
        "fingerprint": identity,
        "feature_set": recipe.rows.feature_set,
        "train_cutoff": recipe.rows.train_cutoff,
        "judge_cutoff": recipe.rows.judge_cutoff,
        "seed": recipe.seed,
    }
    with tempfile.TemporaryDirectory(prefix="sunloom-tabular-") as folder:
        path = winner.model.save(Path(folder) / "model")
        return registry.register(recipe.output.name, KIND, path, metrics, lineage)


def _refit(
    recipe: TabularRecipe, rows: _TrainingSets, data: TrainingData, best: Mapping[str, TrialScore]
) -> dict[str, _Candidate]:
    """Fit each algorithm's best trial to all training rows, one Ray task each, and evaluate it."""
    import ray

    # Once: an argument that is passed by value would be stored for every task.
    shared = ray.put(data)
    task = ray.remote(num_cpus=recipe.tuning.cpus_per_trial)(fit_trial)
    pending = {name: task.remote(score.trial, shared) for name, score in best.items()}
    judge = rows.columns.matrix(rows.judge)
    candidates = {}
    for name, reference in pending.items():
        text, held_out = ray.get(reference)
        model = _build_model(recipe, rows, best[name].trial, text, held_out)
        metrics = CandidateMetrics(
            **vars(evaluate(rows.judge_target, model.fitted.predict(judge))),
            cv_log_loss=best[name].loss,
            cv_standard_error=best[name].standard_error,
            parameters=dict(model.parameters),
            threshold=model.threshold,
        )
        candidates[name] = _Candidate(model, metrics)
    return candidates


def _build_model(
    recipe: TabularRecipe, rows: _TrainingSets, trial: Trial, text: str, held_out: FloatArray
) -> TabularModel:
    threshold = recipe.output.threshold
    if threshold is None:
        # From held-out predictions: on rows that the model has seen it would be too bold.
        threshold = best_threshold(rows.train_target, held_out)
    return TabularModel(
        algorithm=trial.algorithm,
        parameters=trial.parameters,
        columns=rows.columns,
        # Read back from its text, as serving does: what is evaluated is what is registered.
        fitted=load_algorithm(trial.algorithm).load(text),
        labels=recipe.output.labels,
        threshold=threshold,
        about={
            "feature_set": recipe.rows.feature_set,
            "label": recipe.rows.label,
            "cutoff": recipe.rows.train_cutoff,
            "rows": len(rows.train_target),
            "base_rate": float(rows.train_target.mean()),
        },
    )


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        names = sorted(file.name for file in path.parent.glob("*.parquet"))
        hint = f"Found there: {', '.join(names)}" if names else "Run the features step first."
        raise UsageError(f"There is no rows file {path}.", hint, "rows")
    return read_table(path).rows


FINGERPRINT_KEYS = frozenset(
    """rows rows.feature_set rows.label rows.entity rows.event_time rows.train_cutoff
    rows.judge_cutoff rows.train_path rows.judge_path rows.features rows.ratios rows.ratios.name
    rows.ratios.numerator rows.ratios.denominator rows.ratios.plus
    algorithms algorithms.name algorithms.trials algorithms.fixed algorithms.search
    algorithms.search.low algorithms.search.high algorithms.search.log algorithms.search.integer
    tuning tuning.folds tuning.cpus_per_trial tuning.max_concurrent tuning.scheduler
    tuning.grace_folds tuning.time_budget_s tuning.selection
    output output.name output.alias output.labels output.threshold output.reuse""".split()  # noqa: SIM905
)
"""Keys that every fingerprint contains, at their default too; never add one.

A key that came later counts only where it differs from its default: so models that were
registered before it are still found.
"""


def _fingerprint(recipe: TabularRecipe, rows: _TrainingSets) -> str:
    """Fingerprint of everything that decides the model; the gate is not part of it."""
    identity = dump_identity(recipe, FINGERPRINT_KEYS)
    columns = [*rows.columns.features, recipe.rows.label]
    return fingerprint(
        KIND,
        recipe.seed,
        {key: identity[key] for key in ("rows", "algorithms", "tuning", "output")},
        _content(rows.train.select(columns)),
        _content(rows.judge.select(columns)),
    )


def _content(frame: pl.DataFrame) -> list[int]:
    """Hash of the rows in any order: engines may write the same rows in another one."""
    hashes = frame.hash_rows(seed=0).to_numpy()
    # The exclusive or alone would not see a row that occurs twice.
    return [frame.height, int(np.bitwise_xor.reduce(hashes)), int(hashes.sum(dtype=np.uint64))]
