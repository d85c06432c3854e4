"""The loss history of a run, as rows and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sunloom.core.runs import PROGRESS_FILE, read_progress


class ProgressLog:
    """Appends one JSON object a step to the run's folder.

    Args:
        directory: The run's folder.
        from_step: Rows of later steps are dropped: a run that resumes writes them again.
    """

    def __init__(self, directory: Path, from_step: int) -> None:
        path = directory / PROGRESS_FILE
        kept = [row for row in losses(directory) if row["step"] <= from_step]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        self._file = path.open("a", buffering=1)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row; readers see whole lines."""
        self._file.write(f"{json.dumps(row)}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def losses(run_dir: Path) -> list[dict[str, Any]]:
    """Rows ``step``, ``steps``, ``loss``, ``learning_rate``, ``tokens_per_second``, ``seconds``.

    Args:
        run_dir: A run's folder; one that has not begun gives [].
    """
    return read_progress(run_dir)


def plot_losses(run_dirs: Sequence[Path], path: Path, titles: Sequence[str] = ()) -> Path:
    """Draw the loss over the steps of runs, one panel each, as PNG.

    Args:
        run_dirs: Folders of runs.
        path: The picture.
        titles: What stands over each panel; the folder's name when empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(run_dirs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(run_dirs), squeeze=False)[0]
    names = titles or [folder.name for folder in run_dirs]
    for panel, folder, name in zip(panels, run_dirs, names, strict=True):
        rows = losses(folder)
        panel.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=0.9)
        panel.set(title=name, xlabel="step", ylabel="loss a token", yscale="log")
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
