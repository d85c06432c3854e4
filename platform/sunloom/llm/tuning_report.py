"""Report of a search: table of its trials, loss curves, and the figure by each parameter."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from sunloom.config.llm_tune import LogUniform, TuneConfig
from sunloom.core.files import write_atomic
from sunloom.llm.trials import TRIAL_STATES, TrialResult

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ border: 1px solid #bbb; padding: .2rem .6rem; text-align: left }}
tr.best {{ background: #e2f2e6 }}
</style>
<h1>{title}</h1>
<p>{metric}, {direction}; {counts}.</p>
<img alt="Losses, and the figure by each parameter" src="data:image/png;base64,{picture}">
<table><tr>{head}</tr>{rows}</table>
</html>
"""


def trial_columns(tune: TuneConfig) -> tuple[str, ...]:
    """Columns of the table of trials."""
    return ("trial", *tune.space, "state", "steps", "eval_loss", tune.metric, "seconds", "error")


def trial_row(trial: TrialResult, tune: TuneConfig) -> tuple[Any, ...]:
    """A trial's cells."""
    values = [trial.parameters[key] for key in tune.space]
    own = (trial.state, trial.steps, trial.eval_loss, trial.score, trial.seconds, trial.error)
    return (trial.number, *values, *own)


def write_report(
    results: Sequence[TrialResult], best: TrialResult, tune: TuneConfig, folder: Path
) -> tuple[Path, Path]:
    """Write ``trials.json``, ``trials.png`` and ``report.html``.

    Returns:
        The JSON file and the page.
    """
    table = folder / "trials.json"
    content = {
        "metric": tune.metric,
        "best": best.number,
        "trials": [asdict(trial) | {"eval_loss": trial.eval_loss} for trial in results],
    }
    write_atomic(table, json.dumps(content, indent=1))
    picture = plot_trials(results, best, tune, folder / "trials.png")
    states = [trial.state for trial in results]
    rows = "".join(
        f"<tr{' class=best' if trial is best else ''}>"
        + "".join(f"<td>{escape(_format(cell))}</td>" for cell in trial_row(trial, tune))
        + "</tr>"
        for trial in results
    )
    page = _PAGE.format(
        title=escape(f"Search: {', '.join(tune.space)}"),
        metric=escape(tune.metric),
        direction="lower is better" if tune.is_lower_better else "higher is better",
        counts=", ".join(f"{states.count(s)} {s}" for s in TRIAL_STATES),
        picture=b64encode(picture.read_bytes()).decode(),
        head="".join(f"<th>{escape(name)}</th>" for name in trial_columns(tune)),
        rows=rows,
    )
    write_atomic(folder / "report.html", page)
    return table, folder / "report.html"


def plot_trials(
    results: Sequence[TrialResult], best: TrialResult, tune: TuneConfig, path: Path
) -> Path:
    """Draw each trial's evaluation losses, and the deciding figure over each parameter."""
    # Without pyplot there is no global state and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * (1 + len(tune.space)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, *panels = figure.subplots(1, 1 + len(tune.space), squeeze=False)[0]
    for trial in results:
        if trial.losses:
            steps, values = zip(*trial.losses, strict=True)
            width = 2.0 if trial is best else 0.8
            losses.plot(steps, values, marker="o", markersize=2, linewidth=width)
    losses.set(title="evaluation loss", xlabel="step", yscale="log")
    for panel, (key, wanted) in zip(panels, tune.space.items(), strict=True):
        for trial in results:
            score = trial.score
            if score is None and tune.metric == "eval_loss":
                score = trial.eval_loss
            if score is None:
                continue
            value = trial.parameters[key]
            place = value if isinstance(value, int | float) else _format(value)
            filled = "tab:green" if trial is best else "tab:blue"
            marker = "o" if trial.state == "finished" else "x"
            panel.scatter([place], [score], color=filled, marker=marker)
        panel.set(title=tune.metric, xlabel=key)
        if isinstance(wanted, LogUniform):
            panel.set_xscale("log")
    for panel in (losses, *panels):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def _format(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
