"""Point-in-time features for rows: exactly one output row for each input row, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.core.telemetry import get_logger
from sunloom.data.datasets import REASON
from sunloom.data.sources.table_files import data_files, read_table, require_columns
from sunloom.data.sources.text_values import parse_datetime
from sunloom.errors import DataError, DataQualityError, NotFoundError, UsageError
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.counters import Counters
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.engine.row_validation import count_violations
from sunloom.features.historical.engine_choice import EngineChoice, EngineName, choose_engine
from sunloom.features.plan.columns import EVENT_TIME, NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import source_projections
from sunloom.features.sources.typed_rows import conform, read_source

MAX_BAD_SHARE = 0.01

_log = get_logger("features.historical")


@dataclass(frozen=True)
class HistoricalResult:
    """Features of rows, and what was set aside on the way.

    Attributes:
        table: The entities' rows with one column a feature appended.
        damaged: Source rows that could not be read.
        rows_read: Source rows that were read, damaged ones included.
        report: Values outside declared limits, and resolver calls that failed.
    """

    table: pl.DataFrame
    damaged: pl.DataFrame
    rows_read: int
    report: Counters = field(default_factory=Counters)


def historical(
    definitions: str,
    feature_set: str,
    sources: Mapping[str, Path],
    entities: Path,
    out: Path,
    engine: EngineName = "auto",
    *,
    max_bad_share: float = MAX_BAD_SHARE,
) -> dict[str, Any]:
    """Compute point-in-time features for the rows of a file and write them to another.

    Args:
        definitions: An import path, a ``.py`` file, or an entry point of ``sunloom.features``.
        feature_set: Namespace of a features class.
        sources: Namespace to the file or folder with its rows.
        entities: Rows with the primary key under its feature name, ``event_time`` (UTC), and
            anything else, which is carried along.
        out: A Parquet file. Rows set aside go beside it as ``<out>.quarantine.jsonl``.
        engine: ``polars`` in this process, ``ray`` on the connected cluster, ``auto`` in this
            process if it has the memory.
        max_bad_share: Share of unreadable source rows above which nothing is written.

    Returns:
        ``rows``, ``features``, ``engine`` and ``why`` that one, ``out`` and ``quarantined``
        (reason to count); where there are any, ``validations`` (feature to values outside its
        limits) and ``resolver_failures`` (function to failed calls).
    """
    plan = plan_of(definitions, feature_set)
    rows = read_table(entities).rows
    choice = choose_engine(plan, sources, rows.height, engine)
    result = computed(plan, sources, rows, choice)
    counts = quarantine_damaged(
        result, out.with_name(out.name + ".quarantine.jsonl"), max_bad_share
    )
    with atomic_path(out) as partial:
        result.table.write_parquet(partial)
    return {
        "rows": result.table.height,
        "features": list(plan.outputs),
        "engine": choice.engine,
        "why": choice.why,
        "out": str(out),
        "quarantined": counts,
        **result.report.told(),
    }


def computed(
    plan: Plan,
    sources: Mapping[str, Path],
    entities: pl.DataFrame,
    choice: EngineChoice,
    partitions: int | None = None,
) -> HistoricalResult:
    """The computation by the chosen engine.

    Args:
        plan: What to compute.
        sources: Namespace to the file or folder with its rows.
        entities: Key and ``event_time`` of each row, and what is carried along.
        choice: Who computes; ``ray`` needs a connected cluster.
        partitions: Partitions on the cluster at least.
    """
    if choice.engine == "polars":
        return historical_polars(plan, sources, entities)
    from sunloom.features.historical.cluster import DEFAULT_PARTITIONS, historical_ray

    return historical_ray(plan, sources, entities, partitions or DEFAULT_PARTITIONS)


def engine_for(
    definitions: str,
    feature_set: str,
    sources: Mapping[str, Path],
    entities: Path,
    wanted: EngineName = "auto",
) -> EngineChoice:
    """The engine that ``historical`` would choose, before anything is read.

    A Parquet file says how many rows it has; another kind counts as one row for 32 bytes.
    """
    if wanted != "auto":
        return EngineChoice(wanted, f"engine: {wanted}")
    plan = plan_of(definitions, feature_set)
    check_sources(plan, sources)
    rows = 0
    for file in data_files(entities):
        parquet = file.suffix == ".parquet"
        rows += _parquet_rows(file) if parquet else file.stat().st_size // 32
    return choose_engine(plan, sources, rows)


def _parquet_rows(file: Path) -> int:
    return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def historical_polars(
    plan: Plan, sources: Mapping[str, Path], entities: pl.DataFrame
) -> HistoricalResult:
    """The whole computation in this process."""
    check_sources(plan, sources)
    questions = questions_of(plan, entities, sources)
    tables: dict[str, pl.DataFrame] = {}
    damaged: list[pl.DataFrame] = []
    for namespace, need in source_projections(plan).items():
        if namespace in sources:
            read = read_source(plan.class_plan(namespace), need.columns, sources[namespace])
            tables[namespace] = read.rows
            damaged.append(read.damaged)
    engine = FeatureEngine(plan, tables)
    for namespace, table in tables.items():
        engine.report.validations.update(count_violations(plan, namespace, table))
    answers = engine.answer(questions)
    aside = pl.concat(damaged) if damaged else pl.DataFrame()
    read_rows = aside.height + sum(table.height for table in tables.values())
    return HistoricalResult(appended(entities, answers), aside, read_rows, engine.report)


def check_sources(plan: Plan, sources: Mapping[str, Path]) -> None:
    """Check that every source is known and every needed one is given.

    Raises:
        NotFoundError: A source names no class of the plan's definitions.
        UsageError: Rows that an aggregate or a join needs have no source.
    """
    known = [item.namespace for item in plan.classes]
    needs = source_projections(plan)
    for namespace in needs:
        if namespace in sources:
            continue
        if namespace != plan.namespace:
            raise UsageError(
                f"Feature set {plan.feature_set!r} needs rows of {namespace!r}, and no source is "
                "given for them.",
                f"Add --source {namespace}=PATH. Given: {', '.join(sources) or 'none'}.",
                "source",
            )
        _log.warning("no source for %s: its own features are null", namespace)
    for namespace in sources:
        if namespace not in known:
            raise NotFoundError(
                f"Source {namespace!r} belongs to no class that {plan.feature_set!r} uses.",
                known=known,
                name=namespace,
                param="source",
            )


def questions_of(plan: Plan, entities: pl.DataFrame, sources: Mapping[str, Path]) -> pl.DataFrame:
    """Key and moment of each row, and the inputs that rows bring for a class without a source.

    Raises:
        DataError: Key or ``event_time`` is missing, null, or of a wrong type; or a carried column
            bears a feature's name.
    """
    root = plan.root
    require_columns(entities, (root.key, EVENT_TIME), "The entities' table")
    own = [f.name for f in root.features if f.expression is None and f.kind != "primary"]
    given = [name for name in own if name in entities.columns and root.namespace not in sources]
    clash = [n for n in plan.outputs if n in entities.columns and n not in given]
    if clash:
        raise DataError(
            f"The entities' table has a column {clash[0]!r}, which is also a feature of "
            f"{plan.feature_set!r}.",
            "Rename the column; carried columns keep their names.",
            clash[0],
        )
    inputs = conform(entities.select(root.key, *given), root, (root.key, *given), "entities")
    if inputs.damaged.height:
        first = inputs.damaged.row(0, named=True)
        raise DataError(f"The entities' table, row {first['position']}: {first[REASON]}.")
    return inputs.rows.with_columns(_moments(entities))


def _moments(entities: pl.DataFrame) -> pl.Series:
    column = entities[EVENT_TIME]
    if column.dtype == pl.String:
        column = entities.select(parse_datetime(pl.col(EVENT_TIME).str.strip_chars())).to_series()
    if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
        raise DataError(
            f"The entities' event_time is {column.dtype}, not datetimes with a time zone.",
            "Write them in UTC, such as pl.col('event_time').dt.replace_time_zone('UTC').",
            EVENT_TIME,
        )
    if column.null_count():
        row = column.is_null().arg_max()
        raise DataError(
            f"The entities' event_time is missing or unreadable in row {(row or 0) + 1}.",
            "Every row needs the moment as of which it asks.",
            EVENT_TIME,
        )
    return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias(NOW)


def appended(entities: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The entities' rows with the answers as further columns."""
    fresh = [name for name in answers.columns if name not in entities.columns]
    return entities.hstack(answers.select(fresh))


def quarantine_damaged(
    result: HistoricalResult, quarantine: Path, max_bad_share: float
) -> dict[str, int]:
    """Write rows set aside, if there are any, and count their reasons.

    Raises:
        DataQualityError: Their share is above the threshold.
    """
    damaged = result.damaged
    if not damaged.height:
        return {}
    quarantine.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_ndjson(quarantine)
    counted = damaged[REASON].value_counts(sort=True)
    counts = dict(zip(counted[REASON], counted["count"], strict=True))
    if damaged.height > max_bad_share * result.rows_read:
        raise DataQualityError(
            f"{damaged.height} of {result.rows_read} source rows cannot be read, more than "
            f"{max_bad_share:.2%} ({', '.join(f'{why}: {n}' for why, n in counts.items())}).",
            f"Look at {quarantine}; mend the source or raise the threshold.",
        )
    _log.warning("%d source rows set aside in %s", damaged.height, quarantine)
    return counts
