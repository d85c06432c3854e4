"""The frame that a historical query hands to the engine, and its results beside the entities."""

from __future__ import annotations

import polars as pl

from sunloom.data.quarantine import REASON
from sunloom.data.sources.table_files import parse_datetime, require_columns
from sunloom.errors import DataError
from sunloom.features.plan.columns import EVENT_TIME, NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.typed_rows import conform


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
    read = [f.name for f in root.features if f.expression is None and f.kind != "primary"]
    carried = [] if has_source else [name for name in read if name in entities.columns]
    clash = [n for n in plan.outputs if n in entities.columns and n not in carried]
    if clash:
        raise DataError(
            f"The entities' table has a column {clash[0]!r}, which is also a feature of "
            f"{plan.feature_set!r}.",
            "Rename the column; carried columns keep their names.",
            clash[0],
        )
    names = (root.key, *carried)
    inputs = conform(entities.select(names), root, names, "entities")
    if inputs.damaged.height:
        first = inputs.damaged.row(0, named=True)
        raise DataError(f"The entities' table, row {first['position']}: {first[REASON]}.")
    return inputs.rows.with_columns(_as_of_times(entities))


def _as_of_times(entities: pl.DataFrame) -> pl.Series:
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
            "Every row needs the time as of which its features are computed.",
            EVENT_TIME,
        )
    return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias(NOW)


def append_features(entities: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """The entities' rows with the features as further columns; carried ones stay as they are."""
    new = [name for name in features.columns if name not in entities.columns]
    return entities.hstack(features.select(new))
