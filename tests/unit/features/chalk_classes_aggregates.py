"""Definitions with every aggregation, over all time and in a window."""

from datetime import datetime

import chalk.functions as F
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, windowed
from chalk.features import features


@features(name="sl_reading")
class Reading:
    id: Primary[int]
    meter_id: "Meter.id"
    at: FeatureTime
    level: float | None
    units: int | None
    flag: bool | None
    label: str | None
    seen: datetime | None


@features(name="sl_meter")
class Meter:
    id: Primary[str]
    readings: DataFrame[Reading]
    rows: int = _.readings.count()
    rows_in: Windowed[int] = windowed("1d", expression=_.readings[_.at > _.chalk_window].count())
    level_sum: float = _.readings[_.level].sum()
    level_sum_in: Windowed[float] = windowed(
        "1d", expression=_.readings[_.level, _.at > _.chalk_window].sum()
    )
    units_sum: int = _.readings[_.units].sum()
    level_mean: float | None = _.readings[_.level].mean()
    level_min: float | None = _.readings[_.level].min()
    level_max: float | None = _.readings[_.level].max()
    level_min_in: Windowed[float | None] = windowed(
        "1d", expression=_.readings[_.level, _.at > _.chalk_window].min()
    )
    level_std: float | None = _.readings[_.level].std()
    units_var: float | None = _.readings[_.units].var_sample()
    first_label: str | None = _.readings[_.label].first()
    last_level_in: Windowed[float | None] = windowed(
        "1d", expression=_.readings[_.level, _.at > _.chalk_window].last()
    )
    any_flag: bool = _.readings[_.flag].any()
    all_flags: bool = _.readings[_.flag].all()
    different: int = _.readings[_.label].count_distinct()
    levels_in: Windowed[int] = windowed(
        "1d", expression=_.readings[_.level, _.at > _.chalk_window].approx_count_distinct()
    )
    highest_label: str | None = F.max_by(_.readings[_.label], _.level)
    highest_label_in: Windowed[str | None] = windowed(
        "1d", expression=_.readings[_.label, _.at > _.chalk_window].max_by(_.level)
    )
    lowest_units: int | None = _.readings[_.units].min_by(_.level)
    earliest_seen: datetime | None = _.readings[_.seen].min_by(_.seen)
    unit_at_last_label: int | None = _.readings[_.units, _.flag == True].max_by(_.label)  # noqa: E712
    labels: list[str] = F.array_agg(_.readings[_.label])
    labels_in: Windowed[list[str]] = windowed(
        "1d", expression=_.readings[_.label, _.at > _.chalk_window].array_agg()
    )
    high_units: list[int] = _.readings[_.units, _.level > 1.0].array_agg()
    top_labels: list[str] = _.readings[_.label].approx_top_k(k=2)
    top_levels_in: Windowed[list[float]] = windowed(
        "1d", expression=_.readings[_.level, _.at > _.chalk_window].approx_top_k(k=2)
    )
    median: float | None = _.readings[_.level].approx_percentile(quantile=0.5)
    units_90: float | None = _.readings[_.units].approx_percentile(quantile=0.9)
    quartile_in: Windowed[float | None] = windowed(
        "1d",
        expression=_.readings[_.level, _.at > _.chalk_window].approx_percentile(quantile=0.25),
    )
