"""A backfill from its recipe to its manifest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.features.materialization import BackfillConfig, FeaturesRecipe
from sunloom.core.files import remove_partial
from sunloom.core.telemetry import get_logger
from sunloom.data.shuffle import from_packet, partition_by_hash, to_packet
from sunloom.data.sources.table_files import data_files, read_table
from sunloom.errors import ConflictError, UsageError
from sunloom.feature_store.materialization.backfill.entities import bearers
from sunloom.feature_store.materialization.backfill.grid import Grid, grid_of
from sunloom.feature_store.materialization.backfill.part import PartTask
from sunloom.feature_store.materialization.backfill.publish import (
    MANIFEST,
    PARAMETERS,
    chunk_path,
    publish_json,
    whole_rows,
)
from sunloom.feature_store.materialization.backfill.storing import check_whole_days, store_rows
from sunloom.feature_store.materialization.backfill.workers import (
    Filled,
    fill_here,
    fill_on_cluster,
)
from sunloom.features.definitions.open import plan_of
from sunloom.features.historical.engine_choice import EngineChoice, EngineName, choose_engine
from sunloom.features.historical.retrieve import (
    HistoricalResult,
    check_sources,
    quarantine_damaged,
    questions_of,
)
from sunloom.features.plan.columns import EVENT_TIME, NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.extract import fetch_sources
from sunloom.features.sources.splits import FileSplit, chunks_of

_log = get_logger("features.backfill")


@dataclass(frozen=True)
class _Backfill:
    """One backfill: what is asked, and where it lies."""

    recipe: FeaturesRecipe
    plan: Plan
    grid: Grid
    folder: Path
    chunks: Sequence[FileSplit]

    def works(self) -> list[PartTask]:
        """What each partition still has to do; those with nothing are left out."""
        asked = _asked(self.recipe, self.plan, self.grid)
        works = []
        for part in range(self.grid.partitions):
            missing = [
                span
                for span in self.grid.spans()
                if whole_rows(chunk_path(self.folder, span, part)) is None
            ]
            if missing:
                rows = to_packet(asked[part]) if asked is not None else None
                text, folder = self.plan.model_dump_json(), str(self.folder)
                works.append(PartTask(text, self.grid, folder, part, missing, rows))
        return works


def backfill(recipe: FeaturesRecipe) -> dict[str, Any]:
    """Compute a feature set over a range of time; what is there already is left as it is.

    The folder's name depends on the plan, the range and the sources: the same recipe goes on
    where it was ended, another or changed sources begin anew. Tables of a database are fetched
    once; remove the fetched files, or materialise, for newer rows.

    Args:
        recipe: With ``backfill``.

    Returns:
        ``rows``, ``chunks`` (files in all), ``computed`` (by this run), ``kept`` (whole before),
        ``engine`` and ``why``, ``folder`` and ``quarantined``; with ``into_store`` also
        ``stored``, the chunks that became the offline store's by this run.

    Raises:
        UsageError: The recipe has no ``backfill``, or nothing says which entities there are.
        DataQualityError: Too many source rows cannot be read; nothing is computed then.
    """
    plan, config = plan_of(recipe.definitions, recipe.feature_set), _config(recipe)
    fetch_missing(recipe)
    sources = recipe.source_paths()
    check_sources(plan, sources)
    choice = choose_engine(plan, sources, wanted=_wanted(recipe))
    chunks = chunks_of(plan, sources)
    work = _begun(recipe, plan, config, chunks)
    filled = _fill(work, choice)
    return _finished(work, choice, filled)


def fetch_missing(recipe: FeaturesRecipe) -> None:
    """Fetch tables of a database, unless they have been: a resumed backfill keeps its rows."""
    if not all(path.exists() for path in recipe.source_paths().values()):
        fetch_sources(recipe)


def needs_cluster(recipe: FeaturesRecipe) -> bool:
    """Whether Ray computes."""
    fetch_missing(recipe)
    plan = plan_of(recipe.definitions, recipe.feature_set)
    choice = choose_engine(plan, recipe.source_paths(), wanted=_wanted(recipe))
    return choice.engine == "ray"


def _wanted(recipe: FeaturesRecipe) -> EngineName:
    if recipe.execution.engine == "chalk":
        raise UsageError(
            "A backfill is computed by this platform's own engines.",
            "Set execution.engine to auto, polars or ray.",
            "execution.engine",
        )
    return recipe.execution.engine


def _config(recipe: FeaturesRecipe) -> BackfillConfig:
    if recipe.backfill is None:
        raise UsageError(
            "The recipe has no `backfill`, which says the range of time.",
            "Write backfill: {start: …, end: …, every: 1d}, or --start, --end and --every.",
            "backfill",
        )
    return recipe.backfill


def _begun(
    recipe: FeaturesRecipe, plan: Plan, config: BackfillConfig, chunks: Sequence[FileSplit]
) -> _Backfill:
    if config.entities is None and not any(b[0] in recipe.source_paths() for b in bearers(plan)):
        raise UsageError(
            f"No source of {plan.feature_set!r} bears its key {plan.root.key!r}.",
            "Name a file with the entities' keys in backfill.entities.",
            "backfill.entities",
        )
    grid = _grid(config, recipe.execution.partitions)
    parameters = _parameters(recipe, plan, grid)
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    folder = recipe.features_folder() / "backfill" / digest
    remove_partial(folder)
    publish_json(parameters, folder / PARAMETERS)
    return _Backfill(recipe, plan, grid, folder, chunks)


def _grid(config: BackfillConfig, partitions: int) -> Grid:
    grid = grid_of(config.start, config.end, config.every, config.chunk, partitions)
    if not config.into_store:
        return grid
    if config.chunk is None:
        days = math.ceil(grid.chunk / timedelta(days=1))
        grid = replace(grid, chunk=timedelta(days=days))
    check_whole_days(grid)
    return grid


def _parameters(recipe: FeaturesRecipe, plan: Plan, grid: Grid) -> dict[str, Any]:
    """All that decides what the files hold; the hash of keys is Polars' own."""
    entities = recipe.backfill.entities if recipe.backfill else None
    paths: dict[str, Path] = dict(recipe.source_paths())
    if entities is not None:
        paths[EVENT_TIME] = entities
    return {
        "feature_set": plan.feature_set,
        "plan": plan.fingerprint,
        "grid": json.loads(grid.described()),
        "sources": {name: _identity(path) for name, path in sorted(paths.items())},
        "polars": pl.__version__,
    }


def _identity(path: Path) -> list[list[str | int]]:
    """Name, size and time of each file: another content has another identity."""
    states = [(file, file.stat()) for file in data_files(path)]
    return [[str(file.absolute()), s.st_size, s.st_mtime_ns] for file, s in states]


def _asked(recipe: FeaturesRecipe, plan: Plan, grid: Grid) -> list[pl.DataFrame] | None:
    """The entities' rows of each partition; None where the sources say who is there."""
    file = _config(recipe).entities
    if file is None:
        return None
    rows = read_table(file).rows
    if grid.every is not None:
        when = pl.lit(grid.start).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
        rows = rows.with_columns(when)
    questions = questions_of(plan, rows, recipe.source_paths())
    if grid.every is not None:
        questions = questions.drop(NOW).unique(plan.root.key, keep="first", maintain_order=True)
    else:
        questions = questions.sort(NOW, maintain_order=True)
    return list(partition_by_hash(questions, (plan.root.key,), grid.partitions))


def _fill(work: _Backfill, choice: EngineChoice) -> Filled:
    works = work.works()
    if not works:
        return Filled()
    _log.info("%s computes %d partitions: %s", choice.engine, len(works), choice.why)
    fill = fill_here if choice.engine == "polars" else fill_on_cluster
    return fill(work.plan, work.chunks, works, lambda read: _settled(work, read))


def _settled(work: _Backfill, read: Filled) -> Mapping[str, int]:
    """Damaged rows are judged before anything is computed."""
    damaged = [from_packet(packet) for packet in read.damaged]
    aside = pl.concat(damaged) if damaged else pl.DataFrame()
    result = HistoricalResult(pl.DataFrame(), aside, read.rows_read)
    quarantine = work.folder / "quarantine.jsonl"
    return quarantine_damaged(result, quarantine, work.recipe.execution.max_bad_share)


def _finished(work: _Backfill, choice: EngineChoice, filled: Filled) -> dict[str, Any]:
    files = []
    for span in work.grid.spans():
        for part in range(work.grid.partitions):
            path = chunk_path(work.folder, span, part)
            rows = whole_rows(path)
            if rows is None:
                raise ConflictError(f"{path} is gone.", "Run the backfill again.")
            files.append({"file": str(path.relative_to(work.folder)), "rows": rows})
    parameters = json.loads((work.folder / PARAMETERS).read_text())
    rows = sum(int(str(file["rows"])) for file in files)
    publish_json({**parameters, "rows": rows, "files": files}, work.folder / MANIFEST)
    stored: dict[str, Any] = {}
    if _config(work.recipe).into_store:
        stored["stored"] = store_rows(work.recipe, work.plan, work.grid, work.folder)
    return {
        "rows": rows,
        "chunks": len(files),
        "computed": filled.computed,
        "kept": len(files) - filled.computed,
        **asdict(choice),
        "folder": str(work.folder),
        "quarantined": dict(filled.quarantined),
        **stored,
        **filled.report.told(),
    }
