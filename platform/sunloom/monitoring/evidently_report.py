"""Evidently's report from a sample: what the stored histograms cannot show, and no rows kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.monitoring.recipe import MonitoringRecipe
from sunloom.config.monitoring.watch import TableReference, WatchConfig, WatchReport
from sunloom.core.files import atomic_path, write_atomic
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.drift.compare import evidently_datasets
from sunloom.data.quality.drift.psi import has_value
from sunloom.data.quality.drift.sampling import RowSample
from sunloom.errors import DataError
from sunloom.monitoring.bins import Bins
from sunloom.monitoring.source_counts import in_spans, timed_rows, whole_table

HTML, JSON = "drift.html", "drift.json"
_WINDOW = re.compile(r"\d{4}-\d\d-\d\dT\d\d")

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Samples:
    """Rows of a window and of its reference.

    Attributes:
        reference, current: The drawn rows, watched features alone.
        reference_rows, current_rows: Rows that they were drawn from.
    """

    reference: pl.DataFrame
    current: pl.DataFrame
    reference_rows: int
    current_rows: int


@dataclass(frozen=True)
class Pages:
    """Files of one report.

    Attributes:
        html: Evidently's page.
        json: Its figures, with what was drawn.
        gone: Pages of earlier windows that were removed.
    """

    html: Path
    json: Path
    gone: Sequence[Path]


def draw_samples(
    recipe: MonitoringRecipe, cells: Bins, span: Span, reference_spans: Sequence[Span] | None
) -> Samples | None:
    """Draw ``watch.report.rows`` rows of each, by the recipe's seed.

    Args:
        recipe: With ``watch.report``.
        cells: Says which features are watched.
        span: The window.
        reference_spans: What is normal for it; None where that is a table.

    Returns:
        None where there are no rows, or where those of the past cannot be told from those of the
        window because the source has no event time.
    """
    config = recipe.require_watch()
    rows = _settings(config).rows
    current, reference = RowSample(rows, recipe.seed), RowSample(rows, recipe.seed + 1)
    moment = config.source.event_time
    if moment is None and reference_spans is not None:
        get_logger("monitoring").warning(
            "%s: no report from a sample, whose source has no event time to tell the reference by",
            config.name,
        )
        return None
    for frame in _source(config, cells):
        inside = frame if moment is None else frame.filter(in_spans([span], moment))
        current.add(inside.select(cells.names))
        if moment is not None and reference_spans is not None:
            reference.add(frame.filter(in_spans(reference_spans, moment)).select(cells.names))
    if isinstance(config.reference, TableReference):
        for frame in whole_table(config.reference.path):
            reference.add(frame.select(cells.names))
    before, after = reference.sampled_rows(), current.sampled_rows()
    if before is None or after is None:
        return None
    return Samples(before, after, reference.seen, current.seen)


def _source(config: WatchConfig, cells: Bins) -> Iterator[pl.DataFrame]:
    if config.source.event_time is None:
        return whole_table(config.source.path)
    return timed_rows(config, cells)


def write_pages(
    recipe: MonitoringRecipe, samples: Samples, start: datetime, window: str
) -> Pages | None:
    """Let Evidently compare the samples, and write its page and figures; each whole or not at all.

    Features without a value in one of the samples are left out, and named in the figures.

    Args:
        recipe: With ``watch.report``.
        samples: What is compared.
        start: Of the window, which names the report's folder.
        window: The window in words.

    Returns:
        None where no feature has values in both.

    Raises:
        DataError: Evidently cannot compare them.
    """
    config = recipe.require_watch()
    names = [name for name in samples.reference.columns if _can_compare(name, samples)]
    if not names:
        return None
    home = _settings(config).path or recipe.paths.outputs / "monitoring" / config.name
    folder = home / f"{start:%Y-%m-%dT%H}"
    try:
        snapshot = _compared(samples, names, config)
        with atomic_path(folder / HTML) as partial:
            snapshot.save_html(str(partial))
    except Exception as error:
        raise DataError(
            f"Evidently cannot compare the samples of {config.name} in {window}: "
            f"{type(error).__name__}: {error}"
        ) from error
    about = {
        "monitor": config.name,
        "window": window,
        "seed": recipe.seed,
        "current_rows": samples.current_rows,
        "current_sampled": samples.current.height,
        "reference_rows": samples.reference_rows,
        "reference_sampled": samples.reference.height,
        "left_out": [name for name in samples.reference.columns if name not in names],
    }
    write_atomic(folder / JSON, json.dumps(about | snapshot.dict(), indent=1, default=str))
    return Pages(folder / HTML, folder / JSON, _thin_out(folder, _settings(config).keep))


def _compared(samples: Samples, names: Sequence[str], config: WatchConfig) -> Any:
    tables = evidently_datasets(samples.reference, samples.current, names)
    from evidently import Report
    from evidently.presets import DataDriftPreset

    preset = DataDriftPreset(
        columns=list(names),
        method=config.method,
        threshold=config.threshold,
        drift_share=config.alerts.set_share,
    )
    return Report([preset], include_tests=True).run(*tables)


def _can_compare(name: str, samples: Samples) -> bool:
    return all(has_value(side[name]) for side in (samples.reference, samples.current))


def _thin_out(newest: Path, keep: int) -> list[Path]:
    """Remove the oldest reports beside the one just made, and nothing else; the pages removed."""
    beside = (one for one in newest.parent.iterdir() if one.is_dir() and one != newest)
    earlier = sorted(one for one in beside if _WINDOW.fullmatch(one.name))
    gone = []
    for folder in earlier[: max(len(earlier) + 1 - keep, 0)]:
        for name in (HTML, JSON):
            (folder / name).unlink(missing_ok=True)
        gone.append(folder / HTML)
        if not any(folder.iterdir()):
            folder.rmdir()
    return gone


def _settings(config: WatchConfig) -> WatchReport:
    return config.report or WatchReport()
