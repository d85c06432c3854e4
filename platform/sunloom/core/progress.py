"""Progress of a run step by step, in the run's folder: its writer and its reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

PROGRESS_FILE = "progress.jsonl"
"""In a run's folder: one JSON object a line, one line a step."""


@dataclass(frozen=True)
class StepProgress:
    """State of a run after one step.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        loss: Training loss of the step.
        learning_rate: Of the step.
        gradient_norm: Of the step, before it was clipped.
        eval_loss: Loss on held-out data, where the run was evaluated after the step.
        tokens_per_second: Since the start of the process, over all workers.
        mfu: Model FLOPs utilization since then, 0 to 1, where the device's peak is known.
        seconds: Since the start of the process.
        eta_s: Estimated seconds to the end.
        figures: Further ones of the step by name, such as ``rewards/margins``.
    """

    step: int
    steps: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds: float | None = None
    eta_s: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def time_left_s(self) -> float | None:
        """Seconds to the end: as recorded, else from the mean pace so far."""
        if self.eta_s is not None or not (self.step and self.steps and self.seconds):
            return self.eta_s
        return round(self.seconds / self.step * (self.steps - self.step), 1)

    def to_json(self) -> str:
        """One line of the progress file; what is not known is left out."""
        return json.dumps({name: v for name, v in asdict(self).items() if v not in (None, {})})


@runtime_checkable
class Tracker(Protocol):
    """Receiver of a run's progress; built anew for every start of a run.

    A plugin of the group ``sunloom.trackers`` is a callable that takes the run's folder and the
    steps done before this start (0 unless the run resumes) and returns a tracker.
    """

    def log(self, progress: StepProgress) -> None:
        """Record one step."""

    def close(self) -> None:
        """Flush and release what the tracker holds."""


class FileTracker:
    """Appends one JSON object a step to ``progress.jsonl`` in the run's folder.

    The progress bar and ``GET /llm/training/{job_id}`` read that file.

    Args:
        directory: The run's folder.
        steps_done: Rows of later steps are dropped: a run that resumes writes them again.
    """

    def __init__(self, directory: Path, steps_done: int) -> None:
        path = directory / PROGRESS_FILE
        kept = [row for row in read_progress(directory) if row.step <= steps_done]
        path.write_text("".join(f"{row.to_json()}\n" for row in kept))
        # Line buffering: a reader in another process sees whole lines as soon as they are written.
        self._file = path.open("a", buffering=1)

    def log(self, progress: StepProgress) -> None:
        """Append a line."""
        self._file.write(f"{progress.to_json()}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_progress(directory: Path, after: int = 0) -> list[StepProgress]:
    """The steps that a run has recorded so far, oldest first; [] before the first one.

    Args:
        directory: The run's folder.
        after: Only those above this number; the earlier ones are not read.
    """
    path = directory / PROGRESS_FILE
    # A file that another version wrote may have further keys.
    known = {one.name for one in fields(StepProgress)}
    steps: list[StepProgress] = []
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            # The writer may be in the middle of the last line.
            steps.clear()
            continue
        if row["step"] <= after:
            break
        steps.append(StepProgress(**{key: v for key, v in row.items() if key in known}))
    return steps[::-1]
