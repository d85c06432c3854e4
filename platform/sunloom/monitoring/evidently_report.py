"""Evidently's report of a window, from a sample of its rows that is not stored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.monitoring import MonitoringRecipe, TableReference, WatchConfig, WatchReport
from sunloom.core.files import atomic_path, write_atomic
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift import RowSample, evidently_datasets
from sunloom.data.quality.drift_statistics import has_value
from sunloom.errors import DataError
from sunloom.monitoring.histograms import Bins, feature_columns
from sunloom.monitoring.source_counts import in_spans, table_rows, timed_rows
from sunloom.monitoring.stored_results import link_page
from sunloom.monitoring.windows import TimeSpan

HTML, JSON = "drift.html", "drift.json"
# Only folders of this form were written here, and only they are ever deleted.
_WINDOW = re.compile(r"\d{4}-\d\d-\d\dT\d\d")


@dataclass(frozen=True)
class Samples:
    """Sampled rows of a window and of its reference.

    Attributes:
        reference, current: The sampled rows, watched features alone.
        reference_rows, current_rows: Rows that they were sampled from.
    """

    reference: pl.DataFrame
    current: pl.DataFrame
    reference_rows: int
    current_rows: int


def write_report(
    recipe: MonitoringRecipe, bins: Bins, span: TimeSpan, reference_spans: Sequence[TimeSpan] | None
) -> tuple[Path, Path] | None:
    """Compare samples of a window and of its reference by Evidently.

    Writes Evidently's page and its figures, each whole or not at all, names the page in the stored
    drift report, and deletes the oldest pages. Features without a value in one of the samples are
    left out, and named in the figures.

    Args:
        recipe: With ``watch.report``.
        bins: Bins of the watched features.
        span: The window, which names the report's folder.
        reference_spans: The spans of its reference; None where that is a table.

    Returns:
        Page and figures; None where there is nothing to compare.

    Raises:
        DataError: Evidently cannot compare the samples.
    """
    config = recipe.require_watch()
    settings = config.report or WatchReport()
    samples = _draw_samples(recipe, settings.rows, bins, span, reference_spans)
    if samples is None:
        return None
    reference, current = samples.reference, samples.current
    names = [n for n in reference.columns if has_value(reference[n]) and has_value(current[n])]
    if not names:
        return None
    home = settings.path or recipe.paths.outputs / "monitoring" / config.name
    folder = home / f"{span.start:%Y-%m-%dT%H}"
    html, numbers = folder / HTML, folder / JSON
    try:
        snapshot = run_evidently(samples, names, config)
        with atomic_path(html) as partial:
            snapshot.save_html(str(partial))
    # Evidently raises errors of many libraries; each must name the monitor and the window.
    except Exception as error:
        raise DataError(
            f"Evidently cannot compare the samples of {config.name} in {span}: "
            f"{type(error).__name__}: {error}"
        ) from error
    figures = {
        "monitor": config.name,
        "window": str(span),
        "seed": recipe.seed,
        "current_rows": samples.current_rows,
        "current_sampled": current.height,
        "reference_rows": samples.reference_rows,
        "reference_sampled": reference.height,
        "left_out": [name for name in reference.columns if name not in names],
    }
    write_atomic(numbers, json.dumps(figures | snapshot.dict(), indent=1, default=str))
    link_page(recipe, config.name, str(span), html, _delete_oldest(folder, settings.keep))
    return html, numbers


def _draw_samples(
    recipe: MonitoringRecipe,
    rows: int,
    bins: Bins,
    span: TimeSpan,
    reference_spans: Sequence[TimeSpan] | None,
) -> Samples | None:
    """Sample rows of the window and of its reference, by the recipe's seed.

    None where there are no rows, or where the source has no event time that tells rows of the past
    from those of the window.
    """
    config = recipe.require_watch()
    # Two seeds: with one, both samples would take rows at the same positions.
    current, reference = RowSample(rows, recipe.seed), RowSample(rows, recipe.seed + 1)
    event_time = config.source.event_time
    if event_time is not None:
        for frame in timed_rows(config):
            now = frame.filter(in_spans([span], event_time))
            current.add(feature_columns(now, bins))
            if reference_spans is not None:
                past = frame.filter(in_spans(reference_spans, event_time))
                reference.add(feature_columns(past, bins))
    elif reference_spans is None:
        for frame in table_rows(config.source.path):
            current.add(feature_columns(frame, bins))
    else:
        get_logger("monitoring").warning(
            "%s: no report from a sample: the source has no event time to tell the reference by",
            config.name,
        )
        return None
    if isinstance(config.reference, TableReference):
        for frame in table_rows(config.reference.path):
            reference.add(feature_columns(frame, bins))
    before, after = reference.sampled_rows(), current.sampled_rows()
    if before is None or after is None:
        return None
    return Samples(before, after, reference.seen, current.seen)


def run_evidently(samples: Samples, names: Sequence[str], config: WatchConfig) -> Any:
    """Evidently's snapshot of the named features, by its drift preset."""
    tables = evidently_datasets(samples.reference, samples.current, names)
    # After evidently_datasets, which sets DO_NOT_TRACK: Evidently reads it when it is imported.
    from evidently import Report
    from evidently.presets import DataDriftPreset

    preset = DataDriftPreset(
        columns=list(names),
        method=config.method,
        threshold=config.threshold,
        drift_share=config.alerts.set_share,
    )
    return Report([preset], include_tests=True).run(*tables)


def _delete_oldest(newest: Path, keep: int) -> list[Path]:
    """Delete the oldest reports beside the newest one, and nothing else; the deleted pages."""
    folders = (path for path in newest.parent.iterdir() if path.is_dir() and path != newest)
    earlier = sorted(folder for folder in folders if _WINDOW.fullmatch(folder.name))
    removed = []
    for folder in earlier[: max(len(earlier) + 1 - keep, 0)]:
        for name in (HTML, JSON):
            (folder / name).unlink(missing_ok=True)
        removed.append(folder / HTML)
        # A file that somebody put there keeps its folder.
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed
