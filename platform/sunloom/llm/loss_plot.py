"""A picture of the loss over the steps of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sunloom.core.progress import read_progress


def plot_losses(run_dirs: Sequence[Path], path: Path, titles: Sequence[str] = ()) -> Path:
    """Draw the loss over the steps of runs, one panel each, as PNG.

    Args:
        run_dirs: Folders of runs.
        path: The picture.
        titles: Titles of the panels; the folders' names when empty.
    """
    # Without pyplot there is no global state and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(run_dirs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(run_dirs), squeeze=False)[0]
    names = titles or [folder.name for folder in run_dirs]
    for panel, folder, name in zip(panels, run_dirs, names, strict=True):
        rows = [row for row in read_progress(folder) if row.loss is not None]
        panel.plot([row.step for row in rows], [row.loss for row in rows], linewidth=0.9)
        panel.set(title=name, xlabel="step", ylabel="loss a token", yscale="log")
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
