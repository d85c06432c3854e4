"""Public benchmarks: the tasks of the package lm-eval, with data from the hub or local copies.

Prompts, metrics and aggregation are the harness's own, so a score is the one that it gives when it
is run by hand on the same data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sunloom.config.llm import EvaluationConfig
from sunloom.errors import UsageError, nearest
from sunloom.evaluation.measurements import Measurement

ALIASES: Mapping[str, str] = {"arc": "ai2_arc"}
"""Names that people use for what the harness calls otherwise."""
_KEY = "evaluation.benchmarks"
# Accuracy over answers of unlike length is compared per byte where the task offers it.
_PREFERRED = "acc_norm"
_REPORTED = ("results", "groups", "n-samples", "versions")


@dataclass(frozen=True)
class BenchmarkScore:
    """A model's score in one task or group of tasks.

    Attributes:
        metric: Name of the harness's metric, with its filter where it has one.
        score: Mean over the examples; of a group, the harness's aggregate.
        standard_error: Of the score, as the harness gives it.
        examples: Each example's score, of a group task by task.
    """

    metric: str
    score: float
    standard_error: float | None
    examples: tuple[float, ...]

    def measure(self, name: str) -> Measurement:
        """``benchmarks.NAME``."""
        found = Measurement(
            figure=f"benchmarks.{name}",
            metric=self.metric,
            keys=tuple(str(number) for number in range(1, len(self.examples) + 1)),
            values=self.examples,
        )
        if self.examples and math.isclose(found.mean or 0.0, self.score, abs_tol=1e-9):
            return found
        # A group's tasks may weigh alike, whatever their size; a metric may be no mean.
        return replace(found, value=self.score, standard_error=self.standard_error)


@dataclass(frozen=True)
class BenchmarkResults:
    """A model's scores.

    Attributes:
        scores: By task or group, in the order of the recipe.
        report: The harness's results for the record, without the examples' texts.
    """

    scores: dict[str, BenchmarkScore]
    report: dict[str, Any]


class Benchmarks:
    """Benchmark tasks whose data sets have been loaded.

    Args:
        config: Which tasks, and where their data lies.

    Raises:
        UsageError: The harness has no such task, or a data set cannot be loaded.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        from lm_eval.tasks import TaskManager

        self._config = config
        if config.benchmark_data is not None and not config.benchmark_data.is_dir():
            raise UsageError(
                f"There is no folder {config.benchmark_data}.", param="evaluation.benchmark_data"
            )
        files = {name: Path(name) for name in config.benchmarks if Path(name).is_file()}
        with _quiet():
            # By their folders: of a file's path alone the harness makes no group.
            folders = [str(file.parent) for file in files.values()]
            self._manager = TaskManager(include_path=folders or None)
            self._names = [
                _name_in(files[name]) if name in files else self._find_task(name)
                for name in config.benchmarks
            ]
            for name in self._names:
                self._use_copies(name)
            # Now, not after training: what cannot be loaded would only be met then.
            self._loaded: Any = {name: self._load(name) for name in self._names}

    def run(self, model: Any, tokenizer: Any) -> BenchmarkResults:
        """Score a model.

        Args:
            model: A causal language model, with or without an adapter.
            tokenizer: Its tokenizer.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        size = self._config.benchmark_batch_size
        scores: dict[str, BenchmarkScore] = {}
        report: dict[str, Any] = {}
        with _quiet():
            harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
            # One after another: the harness refuses a task that stands in two of them.
            for name in self._names:
                loaded: Any = self._manager.load([name])
                for task in loaded["tasks"].values():
                    _set_defaults(task)
                # Not simple_evaluate: its report on the environment takes longer than a task.
                results: Any = lm_eval.evaluate(
                    lm=harness, task_dict=loaded, limit=self._config.benchmark_limit
                )
                report[name] = {key: results[key] for key in _REPORTED if key in results}
                # A tag is a list of tasks without a score of its own.
                has_score = name in results.get("groups", {}) or name in results["results"]
                for unit in [name] if has_score else sorted(self._loaded[name]):
                    scores[unit] = _score_of(unit, results)
        return BenchmarkResults(scores, report)

    def questions(self) -> Iterator[tuple[str, str]]:
        """Each example's task with its number from 1, and the text that a model reads."""
        for name in self._names:
            with _quiet():
                tasks = self._manager.load([name])["tasks"]
            for leaf, task in tasks.items():
                examples = islice(task.eval_docs, self._config.benchmark_limit)
                for number, example in enumerate(examples, 1):
                    yield f"{leaf}:{number}", _question_of(task, example)

    def _find_task(self, name: str) -> str:
        chosen = ALIASES.get(name, name)
        if chosen in self._manager.task_index:
            return chosen
        close = nearest(chosen, self._manager.all_tasks)
        raise UsageError(
            f"lm-eval has no task {name!r}.",
            f"Did you mean {close!r}?" if close else "It takes the harness's names or a task file.",
            _KEY,
        )

    def _use_copies(self, name: str) -> None:
        """Point the tasks at local copies of their data sets, where there are any."""
        folder = self._config.benchmark_data
        if folder is None:
            return
        from lm_eval.tasks._yaml_loader import load_yaml

        for entry in _leaves(self._manager.task_index, name):
            task = load_yaml(entry.yaml_path, resolve_func=True) if entry.yaml_path else None
            copy = folder / str((task or {}).get("dataset_path"))
            if task is None or not copy.is_dir():
                continue
            task["dataset_path"] = str(copy.resolve())
            subset = task.get("dataset_name")
            # The card of a data set names its subsets; without it they are folders.
            if subset and not (copy / "README.md").is_file() and (copy / subset).is_dir():
                task["dataset_name"] = None
                task["dataset_kwargs"] = {
                    **(task.get("dataset_kwargs") or {}), "data_dir": subset,
                }  # fmt: skip
            entry.cfg, entry.yaml_path = task, None

    def _load(self, name: str) -> tuple[str, ...]:
        """Load a task's data sets; the names of its leaf tasks."""
        from datasets.exceptions import DatasetsError

        try:
            return tuple(self._manager.load([name])["tasks"])
        except (OSError, DatasetsError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            if isinstance(error, KeyError):
                reason = f"it has no {reason}"
            raise UsageError(
                f"The data of the benchmark {name!r} cannot be loaded: {reason}",
                "It comes from the hub, from its cache (HF_HOME, HF_HUB_OFFLINE=1), or from a copy "
                "at evaluation.benchmark_data/<hub id>, such as FOLDER/Rowan/hellaswag.",
                _KEY,
            ) from error


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[Any]:
    """The harness's entries of all tasks under a name."""
    entry = index.get(name)
    if entry is None:
        return
    kind = entry.kind.name
    if kind not in ("TAG", "GROUP"):
        yield entry
        return
    for member in sorted(entry.tags) if kind == "TAG" else _members(entry):
        yield from _leaves(index, member)


def _set_defaults(task: Any) -> None:
    """What the harness's command line sets where nothing else is said."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _question_of(task: Any, example: Any) -> str:
    """What the harness itself would look for in training data, where a task says so."""
    if task.should_decontaminate():
        return str(task.doc_to_decontamination_query(example))
    text = task.doc_to_text(example)
    # The number of the right one of several texts, of which each is scored.
    return text if isinstance(text, str) else "\n".join(map(str, task.doc_to_choice(example)))


def _name_in(file: Path) -> str:
    """The task or group that a file of the harness's format defines."""
    from lm_eval.tasks._yaml_loader import load_yaml

    definition = load_yaml(file, resolve_func=False)
    return str(definition.get("group") or definition.get("task"))


def _members(entry: Any) -> list[str]:
    from lm_eval.tasks._yaml_loader import load_yaml

    group = load_yaml(entry.yaml_path, resolve_func=False)
    members = group["task"] if isinstance(group["task"], list) else [group["task"]]
    return [m if isinstance(m, str) else str(m.get("task") or m.get("group")) for m in members]


def _score_of(name: str, results: Mapping[str, Any]) -> BenchmarkScore:
    figures = results.get("groups", {}).get(name) or results["results"][name]
    metric = _choose_metric(figures)
    leaves = results["group_subtasks"].get(name) or [name]
    error = figures.get(metric.replace(",", "_stderr,"))
    return BenchmarkScore(
        metric=metric.removesuffix(",none"),
        score=float(figures[metric]),
        standard_error=float(error) if isinstance(error, int | float) else None,
        examples=tuple(_examples_of(leaves, results, metric)),
    )


def _choose_metric(figures: Mapping[str, Any]) -> str:
    """``metric,filter`` of the figure that stands for a task: the first, or the normalised one."""
    metrics = [key for key in figures if "," in key and "_stderr," not in key]
    preferred = [key for key in metrics if key.startswith(f"{_PREFERRED},")]
    return (preferred or metrics)[0]


def _examples_of(names: Sequence[str], results: Mapping[str, Any], metric: str) -> Iterator[float]:
    key, _, filtered_by = metric.partition(",")
    for name in names:
        # Groups in groups: the harness lists the tasks below a group under its subgroups.
        if name in results["group_subtasks"] and name not in results["samples"]:
            yield from _examples_of(results["group_subtasks"][name], results, metric)
            continue
        samples = [s for s in results["samples"][name] if s["filter"] == filtered_by]
        yield from (float(s[key]) for s in sorted(samples, key=lambda s: int(s["doc_id"])))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's notes off the screen; its errors are raised."""
    restore: list[Callable[[], None]] = []
    for name in ("lm_eval", "datasets", "huggingface_hub"):
        logger = logging.getLogger(name)
        level = logger.level
        logger.setLevel(logging.ERROR)
        restore.append(lambda logger=logger, level=level: logger.setLevel(level))  # type: ignore[misc]
    try:
        yield
    finally:
        for undo in restore:
            undo()
