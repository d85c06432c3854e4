"""The historical query: the frame handed to the engine, and its result beside the entities.

Source rows that could not be read are quarantined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.data.quarantine import REASON
from sunloom.data.sources.table_files import Table, data_files, read_table, require_columns
from sunloom.data.sources.text_types import parse_datetime
from sunloom.errors import DataError, DataQualityError
from sunloom.features.engine.counters import Counters
from sunloom.features.plan.feature_sets import EVENT_TIME, NOW, Plan
from sunloom.features.sources.typed_rows import conform, damaged_frame


def read_entities(path: Path, plan: Plan, *, has_source: bool) -> Table:
    """A file of entities: what the plan knows in its types, anything else as it is.

    Args:
        path: A Parquet, CSV or JSON-lines file, or a folder of them.
        plan: Types of the key, and of features that the rows carry.
        has_source: As in ``build_query_frame``.

    Raises:
        UsageError: There is no such file.
        DataError: No row can be read, or a value of the plan's is of a wrong type.
    """
    files = data_files(path)
    if all(file.suffix == ".parquet" for file in files):
        return read_table(path)
    # As text: a carried 00501 stays what it is, and a key is of the type that the plan says.
    texts = read_table(path, as_text=True)
    if texts.damaged and not texts.rows.height:
        first = texts.damaged[0]
        raise DataError(
            f"No row of the entities' table can be read: {first.source}, line {first.position}: "
            f"{first.reason}.",
        )
    rows = texts.rows
    if not any(file.suffix == ".csv" for file in files):
        # JSON knows the types of what is only carried.
        rows = read_table(path).rows
    require_columns(rows, [plan.root.key], "The entities' table")
    names = _query_columns(plan, rows.columns, has_source=has_source)
    typed = _conform_entities(texts.rows, plan, names, decimal_comma=texts.decimal_comma)
    if EVENT_TIME in rows.columns:
        typed = typed.with_columns(_as_of_times(texts.rows).alias(EVENT_TIME))
    return replace(texts, rows=rows.with_columns(typed))


def _query_columns(plan: Plan, columns: Sequence[str], *, has_source: bool) -> list[str]:
    """The key, and the features whose values the rows carry."""
    root = plan.root
    if has_source:
        return [root.key]
    read = [f.name for f in root.features if f.expression is None and f.kind != "primary"]
    return [root.key, *(name for name in read if name in columns)]


def _conform_entities(
    entities: pl.DataFrame, plan: Plan, names: Sequence[str], *, decimal_comma: bool = False
) -> pl.DataFrame:
    inputs = conform(
        entities.select(names), plan.root, names, "entities", decimal_comma=decimal_comma
    )
    if inputs.damaged.height:
        first = inputs.damaged.row(0, named=True)
        raise DataError(f"The entities' table, row {first['position']}: {first[REASON]}.")
    return inputs.rows


def build_query_frame(plan: Plan, entities: pl.DataFrame, *, has_source: bool) -> pl.DataFrame:
    """Key and as-of time of each row, and the features that the rows themselves carry.

    Args:
        plan: What to compute.
        entities: Key and ``event_time`` of each row, and what is carried along.
        has_source: Whether the feature set's own class has a source. Without one, columns of the
            entities with a feature's name are that feature's values.

    Raises:
        DataError: Key or ``event_time`` is missing, null, or of a wrong type; or a carried column
            has a feature's name.
    """
    root = plan.root
    require_columns(entities, (root.key, EVENT_TIME), "The entities' table")
    names = _query_columns(plan, entities.columns, has_source=has_source)
    clash = [n for n in plan.outputs if n in entities.columns and n not in names[1:]]
    if clash:
        raise DataError(
            f"The entities' table has a column {clash[0]!r}, which is also a feature of "
            f"{plan.feature_set!r}.",
            "Rename the column; carried columns keep their names.",
            clash[0],
        )
    return _conform_entities(entities, plan, names).with_columns(_as_of_times(entities))


def _as_of_times(entities: pl.DataFrame) -> pl.Series:
    column = entities[EVENT_TIME]
    if column.dtype == pl.String:
        column = entities.select(parse_datetime(pl.col(EVENT_TIME).str.strip_chars())).to_series()
    if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
        raise DataError(
            f"The entities' event_time is {column.dtype}, not datetimes with a time zone.",
            "Write them in UTC, such as 2026-01-31T12:00:00Z in a text file.",
            EVENT_TIME,
        )
    if column.null_count():
        row = column.is_null().arg_max()
        raise DataError(
            f"The entities' event_time is missing or unreadable in row {(row or 0) + 1}.",
            "Every row needs the time as of which its features are computed.",
            EVENT_TIME,
        )
    return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias(NOW)


def append_features(entities: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """The entities' rows with the features as further columns; carried ones stay as they are."""
    new = [name for name in features.columns if name not in entities.columns]
    return entities.hstack(features.select(new))


_log = get_logger("features.historical")


@dataclass(frozen=True)
class HistoricalResult:
    """Features of rows, and the source rows that could not be read.

    Attributes:
        table: The entities' rows with one column a feature appended.
        damaged: Source rows that could not be read.
        rows_read: Source rows that were read, damaged ones included.
        counters: Values outside declared limits, and resolver calls that failed.
    """

    table: pl.DataFrame
    damaged: pl.DataFrame = field(default_factory=pl.DataFrame)
    rows_read: int = 0
    counters: Counters = field(default_factory=Counters)

    @property
    def source_rows(self) -> ReadRows:
        """How reading the sources went."""
        return ReadRows("source rows", self.damaged, self.rows_read)


@dataclass(frozen=True)
class ReadRows:
    """How reading went.

    Attributes:
        kind: What was read, as errors call it.
        damaged: Rows that could not be read: ``source``, ``position``, ``reason``, ``content``.
        count: All rows, damaged ones included.
    """

    kind: str
    damaged: pl.DataFrame
    count: int


def entity_rows(table: Table) -> ReadRows:
    """How reading the entities' file went."""
    count = table.rows.height + len(table.damaged)
    return ReadRows("entities' rows", damaged_frame(table.damaged), count)


def quarantine_damaged(
    parts: Sequence[ReadRows], path: Path, max_bad_share: float
) -> dict[str, int]:
    """Write the rows that could not be read, if there are any, and count their reasons.

    Args:
        parts: What was read; each kind is judged by itself.
        path: JSON lines, written only where there is a row.
        max_bad_share: Share of damaged rows from which the computation stops.

    Raises:
        DataQualityError: Their share is above the threshold.
    """
    parts = [part for part in parts if part.damaged.height]
    if not parts:
        return {}
    damaged = pl.concat([part.damaged for part in parts])
    path.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_ndjson(path)
    for part in parts:
        if part.damaged.height > max_bad_share * part.count:
            reasons = ", ".join(f"{why}: {n}" for why, n in _count_reasons(part.damaged).items())
            raise DataQualityError(
                f"{part.damaged.height} of {part.count} {part.kind} cannot be read, more than "
                f"{max_bad_share:.2%} ({reasons}).",
                f"Look at {path}; mend the source or raise the threshold.",
            )
        _log.warning("%d %s are quarantined in %s", part.damaged.height, part.kind, path)
    return _count_reasons(damaged)


def _count_reasons(damaged: pl.DataFrame) -> dict[str, int]:
    counted = damaged[REASON].value_counts(sort=True)
    return dict(zip(counted[REASON], counted["count"], strict=True))
