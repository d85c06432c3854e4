"""The run's progress file: written by the file tracker, read while it grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sunloom.core.progress import StepProgress, read_progress
from sunloom.core.trackers import TrackedRun, open_trackers
from sunloom.errors import NotFoundError


def write_steps(folder: Path, steps: dict[int, float], steps_done: int = 0) -> None:
    with open_trackers(("file",), TrackedRun(folder, steps_done)) as [tracker]:
        for step, loss in steps.items():
            tracker.log(StepProgress(step=step, loss=loss))


def test_a_resumed_run_writes_the_steps_after_its_checkpoint_again(tmp_path: Path) -> None:
    write_steps(tmp_path, {1: 1.0, 2: 0.5, 3: 0.25})
    write_steps(tmp_path, {3: 0.3}, steps_done=2)
    assert [(row.step, row.loss) for row in read_progress(tmp_path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3),
    ]


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    write_steps(tmp_path, {1: 1.0})
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row.step for row in read_progress(tmp_path)] == [1]
    assert read_progress(tmp_path / "absent") == []


def test_a_line_keeps_its_keys_and_later_keys_are_passed_over(tmp_path: Path) -> None:
    progress = StepProgress(step=1, steps=4, loss=2.5, learning_rate=1e-3, seconds=2.0)
    line = json.loads(progress.to_json())
    assert line == {"step": 1, "steps": 4, "loss": 2.5, "learning_rate": 1e-3, "seconds": 2.0}
    (tmp_path / "progress.jsonl").write_text(json.dumps(line | {"memory_bytes": 1}) + "\n")
    assert read_progress(tmp_path) == [progress]
    assert progress.time_left_s == 6.0


def test_an_unknown_tracker_names_the_group(tmp_path: Path) -> None:
    with (
        pytest.raises(NotFoundError, match=r"'memory'.*sunloom\.trackers"),
        open_trackers(("memory",), TrackedRun(tmp_path, 0)),
    ):
        pass
