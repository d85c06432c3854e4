"""Trackers of runs: MLflow, TensorBoard, Weights & Biases, the run's own file, and plugins."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import SecretStr

from sunloom.config import Settings
from sunloom.config.loading.model import RESOLVED
from sunloom.config.tracking import TrackingConfig
from sunloom.core.files import write_atomic
from sunloom.core.plugins import load_plugin
from sunloom.core.progress import FileTracker, StepProgress, Tracker
from sunloom.core.telemetry import get_logger, silence_libraries
from sunloom.errors import DependencyError, PluginError, TrainingError

TRACKER_GROUP = "sunloom.trackers"
TRACKERS_FILE = "trackers.json"
"""In a run's folder: by tracker, the run's id and place there."""
# A call of a server takes longer than a small step: several steps travel together.
_SEND_EVERY_S = 1.0
_MOST_AT_ONCE = 900
_LONGEST_PARAMETER = 6000


@dataclass(frozen=True)
class TrackedRun:
    """A start of a run, as trackers are built for it.

    Attributes:
        directory: The run's folder, which the resumed run's ``trackers.json`` was copied to.
        steps_done: Steps done before this start.
        targets: Where the progress goes.
    """

    directory: Path
    steps_done: int
    targets: TrackingConfig = field(default_factory=TrackingConfig)

    def parameters(self) -> dict[str, str]:
        """The run's recipe by dotted keys; {} where its folder has none."""
        path = self.directory / RESOLVED
        tree = yaml.safe_load(path.read_text()) if path.is_file() else {}
        # Secrets are masked in the file. Where the work runs is no parameter of it.
        own = {k: v for k, v in tree.items() if k == "seed" or k not in Settings.model_fields}
        return {key: str(value)[:_LONGEST_PARAMETER] for key, value in flatten(own)}


def resolve_tracking(settings: Settings) -> TrackingConfig:
    """Where the trackers of a run with these settings send its progress."""
    targets = settings.telemetry.tracking
    if targets.mlflow.uri is not None:
        return targets
    uri = SecretStr(f"sqlite:///{settings.paths.state / 'mlflow.db'}")
    return targets.model_copy(update={"mlflow": targets.mlflow.model_copy(update={"uri": uri})})


def read_tracked(directory: Path) -> dict[str, dict[str, str]]:
    """By tracker, the id and place that a run has there; {} without a tracker that gives any."""
    path = directory / TRACKERS_FILE
    tracked: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.is_file() else {}
    return tracked


def _write_tracked(directory: Path, name: str, place: Mapping[str, str]) -> None:
    write_atomic(
        directory / TRACKERS_FILE, json.dumps(read_tracked(directory) | {name: dict(place)})
    )


class MlflowTracker:
    """Parameters, and figures of each step, in a run of MLflow that a resumed run goes on with.

    The steps are sent beside the training. A server that fails later costs no training: the steps
    are sent again with the next ones, and what is lost in the end is said.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._client = open_mlflow(run.targets)
        self._waiting: list[StepProgress] = []
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._sending: Future[None] | None = None
        self._sent_at = time.monotonic()
        tracked = read_tracked(run.directory).get("mlflow")
        self.run_id = tracked["run_id"] if tracked else self._create(run)
        known = self._client.get_run(self.run_id)
        if known.info.status != "RUNNING":
            self._client.set_terminated(self.run_id, "RUNNING")
        # A value of the first start cannot be changed.
        self._log_parameters(
            {k: v for k, v in run.parameters().items() if k not in known.data.params}
        )
        # What was sent after the checkpoint is done again, with the same values on one machine.
        self._known = {
            (row.step, row.value) for row in self._client.get_metric_history(self.run_id, "loss")
        }

    def log(self, progress: StepProgress) -> None:
        """Send one step soon."""
        if (progress.step, progress.loss) in self._known:
            return
        self._waiting.append(progress)
        is_free = self._sending is None or self._sending.done()
        if is_free and time.monotonic() - self._sent_at > _SEND_EVERY_S:
            self._sent_at = time.monotonic()
            self._sending = self._thread.submit(self._send)

    def close(self) -> None:
        """Send what is left; the run stays open until ``end_tracked``."""
        self._thread.submit(self._send).result()
        self._thread.shutdown()
        if self._waiting:
            get_logger("trackers").warning(
                "MLflow did not get the last %d steps of run %s", len(self._waiting), self.run_id
            )

    def _create(self, run: TrackedRun) -> str:
        config, folder = run.targets.mlflow, run.directory
        experiment = self._client.get_experiment_by_name(config.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(config.experiment)
        )
        tags = {"sunloom.run": folder.name, "sunloom.artifacts": str(folder)}
        created = self._client.create_run(experiment_id, run_name=folder.name, tags=tags)
        run_id: str = created.info.run_id
        place = {"run_id": run_id, "experiment_id": experiment_id}
        _write_tracked(folder, "mlflow", place)
        return run_id

    def _log_parameters(self, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        rows = [Param(_mlflow_name(key), value) for key, value in parameters.items()]
        # More are refused at once.
        for start in range(0, len(rows), 100):
            self._client.log_batch(self.run_id, params=rows[start : start + 100])

    def _send(self) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        steps, now = list(self._waiting), int(time.time() * 1000)
        rows = [
            Metric(_mlflow_name(name), value, now, progress.step)
            for progress in steps
            for name, value in figures_of(progress).items()
        ]
        try:
            for start in range(0, len(rows), _MOST_AT_ONCE):
                self._client.log_batch(self.run_id, metrics=rows[start : start + _MOST_AT_ONCE])
        except MlflowException as error:
            get_logger("trackers").warning("MLflow cannot be written to: %s", error)
            return
        # The training may have added some meanwhile.
        del self._waiting[: len(steps)]


class TensorBoardTracker:
    """Event files in ``tensorboard`` of the run's folder, by the package tensorboardX."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        folder = run.directory / "tensorboard"
        # A reader passes over the steps that a resumed run writes again.
        purge = run.steps_done + 1 if folder.is_dir() else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)
        _write_tracked(run.directory, "tensorboard", {"folder": str(folder)})

    def log(self, progress: StepProgress) -> None:
        """Write one step."""
        for name, value in figures_of(progress).items():
            self._writer.add_scalar(name, value, progress.step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class WandbTracker:
    """A run of Weights & Biases, offline unless ``telemetry.tracking.wandb.mode`` says online."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        config, tracked = run.targets.wandb, read_tracked(run.directory).get("wandb")
        self._run = wandb.init(
            project=config.project,
            name=run.directory.name,
            dir=str(run.directory),
            id=tracked["run_id"] if tracked else None,
            resume="allow",
            mode=config.mode,
            config=run.parameters(),
        )
        _write_tracked(run.directory, "wandb", {"run_id": self._run.id, "mode": config.mode})

    def log(self, progress: StepProgress) -> None:
        """Write one step."""
        self._run.log(figures_of(progress), step=progress.step)

    def close(self) -> None:
        """Flush and end."""
        self._run.finish()


@dataclass(frozen=True)
class TrackerKind:
    """A built-in tracker.

    Attributes:
        build: Makes it for a start of a run.
        module: What it imports; empty needs nothing.
        install: How that comes in.
    """

    build: Callable[[TrackedRun], Tracker]
    module: str = ""
    install: str = ""


TRACKERS: Mapping[str, TrackerKind] = {
    "file": TrackerKind(lambda run: FileTracker(run.directory, run.steps_done)),
    "mlflow": TrackerKind(MlflowTracker, "mlflow", "pip install mlflow-skinny"),
    "tensorboard": TrackerKind(TensorBoardTracker, "tensorboardX", "pip install tensorboardX"),
    "wandb": TrackerKind(WandbTracker, "wandb", "pip install wandb"),
}
"""The built-in trackers; plugins add theirs."""


def require_trackers(names: Sequence[str], targets: TrackingConfig) -> None:
    """Refuse trackers that cannot be built, before anything is trained.

    Raises:
        NotFoundError: There is no such tracker; the known ones are listed.
        DependencyError: Its package is missing.
        TrainingError: MLflow cannot be reached.
    """
    for name in names:
        _load_builder(name)
    if "mlflow" in names:
        open_mlflow(targets)


def _load_builder(name: str) -> Callable[[TrackedRun], Any]:
    kind = TRACKERS.get(name)
    if kind is None:
        plugin = load_plugin(TRACKER_GROUP, name)
        return lambda run: plugin(run.directory, run.steps_done)
    if kind.module and find_spec(kind.module) is None:
        raise DependencyError(
            f"The tracker {name!r} needs the package {kind.module}.", kind.install, "trackers"
        )
    return kind.build


@contextmanager
def open_trackers(names: Sequence[str], run: TrackedRun) -> Iterator[tuple[Tracker, ...]]:
    """Build the named trackers of a run; they are closed when the block ends.

    Args:
        names: Built-in trackers or entry points of ``sunloom.trackers``.
        run: The start of the run.

    Raises:
        NotFoundError: There is no such tracker; the known ones are listed.
        DependencyError: Its package is missing.
        PluginError: What the entry point builds is not a tracker.
        TrainingError: MLflow cannot be reached.
    """
    trackers: list[Tracker] = []
    try:
        for name in names:
            tracker = _load_builder(name)(run)
            if not isinstance(tracker, Tracker):
                raise PluginError(
                    f"The tracker {name!r} has no methods log and close.", param="trackers"
                )
            trackers.append(tracker)
        yield tuple(trackers)
    finally:
        for tracker in trackers:
            tracker.close()


def end_tracked(
    directory: Path,
    targets: TrackingConfig,
    status: Literal["FINISHED", "FAILED"],
    metrics: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """End a run's run of MLflow, where it has one, with figures of its result.

    Args:
        directory: The run's folder.
        targets: Where its progress went.
        status: Of the whole run, judging included.
        metrics: Those that are numbers are kept.
        tags: Of the result, such as the registered model.
    """
    tracked = read_tracked(directory).get("mlflow")
    if tracked is None:
        return
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException

    now = int(time.time() * 1000)
    rows = [
        Metric(f"result/{_mlflow_name(name)}", float(value), now, 0)
        for name, value in flatten(dict(metrics or {}))
        if isinstance(value, int | float)
    ]
    try:
        client = open_mlflow(targets)
        client.log_batch(
            tracked["run_id"],
            metrics=rows[:_MOST_AT_ONCE],
            tags=[RunTag(f"sunloom.{name}", value) for name, value in (tags or {}).items()],
        )
        client.set_terminated(tracked["run_id"], status)
    except (MlflowException, TrainingError) as error:
        # What was learned is not lost for a server that is away.
        get_logger("trackers").warning("MLflow cannot be written to: %s", error)


def open_mlflow(targets: TrackingConfig) -> Any:
    """An ``MlflowClient`` of the tracking server or database.

    Raises:
        TrainingError: It cannot be reached.
    """
    silence_libraries()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # It tells of the tables that it makes.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = targets.mlflow.uri.get_secret_value() if targets.mlflow.uri else None
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    # An OSError where a folder of its file cannot be made.
    except (MlflowException, OSError) as error:
        raise TrainingError(
            f"MLflow cannot be reached: {error}",
            "Set telemetry.tracking.mlflow.uri to a server or database that the workers reach, or "
            "leave mlflow out of training.trackers.",
            "telemetry.tracking.mlflow.uri",
        ) from error
    return client


def figures_of(progress: StepProgress) -> dict[str, float]:
    """A step's numbers by name."""
    own = {f.name: getattr(progress, f.name) for f in fields(progress)}
    figures = own.pop("figures") | {k: own[k] for k in own if k not in ("step", "steps", "eta_s")}
    return {name: float(value) for name, value in figures.items() if value is not None}


def _mlflow_name(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-./ :" else "_" for c in name)[:250]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
