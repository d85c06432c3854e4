"""Trackers beside the run's file: what MLflow and TensorBoard keep is the run's progress."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe
from sunloom.config.tracking import MlflowConfig, TrackingConfig
from sunloom.core.progress import PROGRESS_FILE, StepProgress, read_progress
from sunloom.core.runs import start_run
from sunloom.core.trackers import (
    TRACKERS_FILE,
    TrackedRun,
    end_tracked,
    figures_of,
    open_trackers,
    read_tracked,
    require_trackers,
    resolve_tracking,
)
from sunloom.errors import ConfigError, DependencyError, TrainingError


def _steps(first: int, last: int) -> list[StepProgress]:
    return [
        StepProgress(
            step=n, steps=6, loss=round(3 / n, 6), gradient_norm=0.5 * n, learning_rate=1e-3,
            eval_loss=1 / n if n % 2 == 0 else None, figures={"rewards/margins": 0.1 * n},
        )
        for n in range(first, last + 1)
    ]  # fmt: skip


def _track(names: tuple[str, ...], run: TrackedRun, steps: list[StepProgress]) -> None:
    with open_trackers(names, run) as trackers:
        for step in steps:
            for tracker in trackers:
                tracker.log(step)


def test_mlflow_has_the_progress_of_a_run_and_of_its_resumption(tmp_path: Path) -> None:
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    sets += ["training.trackers=[file, mlflow]", "lora.r=8", "training.max_steps=6"]
    recipe = load_config(LlmRecipe, sets=sets, environ={}).config
    targets, names = resolve_tracking(recipe), recipe.training.trackers
    first = start_run(recipe, "llm-adapter", recipe)
    (tmp_path / "state").mkdir()
    _track(names, TrackedRun(first.directory, 0, targets), _steps(1, 4))
    # Killed there; its newest checkpoint is that of step 3.
    second = start_run(recipe, "llm-adapter", recipe)
    for name in (TRACKERS_FILE, PROGRESS_FILE):
        (second.directory / name).write_bytes((first.directory / name).read_bytes())
    _track(names, TrackedRun(second.directory, 3, targets), _steps(4, 6))
    end_tracked(second.directory, targets, "FINISHED", {"eval_loss": 0.2}, {"model": "own@1"})
    with sqlite3.connect(tmp_path / "state" / "mlflow.db") as database:
        runs = database.execute("select run_uuid, status, name from runs").fetchall()
        rows = database.execute("select key, step, value from metrics").fetchall()
        kept = sorted(row for row in rows if not row[0].startswith("result/"))
        parameters = dict(database.execute("select key, value from params").fetchall())
        tags = dict(database.execute("select key, value from tags").fetchall())
        result = database.execute("select value from latest_metrics where key = 'result/eval_loss'")
        assert result.fetchall() == [(0.2,)]
    database.close()
    progress = read_progress(second.directory)
    assert [row.step for row in progress] == [1, 2, 3, 4, 5, 6]
    assert kept == sorted(
        (name, row.step, value) for row in progress for name, value in figures_of(row).items()
    )
    run_id = read_tracked(second.directory)["mlflow"]["run_id"]
    assert runs == [(run_id, "FINISHED", first.run_id)]
    record = second.finish("succeeded")
    assert record.run_id
    written = yaml.safe_load((second.directory / "run.json").read_text())
    assert written["trackers"]["mlflow"]["run_id"] == run_id
    assert (parameters["lora.r"], parameters["training.max_steps"]) == ("8", "6")
    assert not [key for key in parameters if key.startswith(("paths", "telemetry"))]
    assert tags["sunloom.artifacts"] == str(first.directory)
    assert tags["sunloom.model"] == "own@1"


def test_tensorboard_has_the_progress(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    steps = _steps(1, 3)
    _track(("tensorboard",), TrackedRun(tmp_path, 0), steps)
    [path] = (tmp_path / "tensorboard").iterdir()
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        # A record: its length, a checksum of that, the event, a checksum of that.
        (size,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += 16 + size
    expected = [(name, s.step, value) for s in steps for name, value in figures_of(s).items()]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected])


def test_what_cannot_be_tracked_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="needs the package wandb") as missing:
        require_trackers(("file", "wandb"), TrackingConfig())
    assert missing.value.hint == "pip install wandb"
    for place in ("mlruns", "file:///tmp/mlruns", "/var/mlruns"):
        with pytest.raises(ConfigError, match="no longer writes to plain folders"):
            load_config(LlmRecipe, sets=[f"telemetry.tracking.mlflow.uri={place}"], environ={})
    uri = SecretStr(f"sqlite:///{tmp_path / 'absent' / 'deeper' / 'x.db'}")
    (tmp_path / "absent").write_text("a file")
    targets = TrackingConfig(mlflow=MlflowConfig(uri=uri))
    with pytest.raises(TrainingError, match="MLflow cannot be reached"):
        require_trackers(("file", "mlflow"), targets)
