"""Definitions of the tests of extreme values: every aggregation of numbers over three windows."""

import chalk.functions as F
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, windowed
from chalk.features import features


@features(name="xt_reading")
class Reading:
    id: Primary[int]
    meter_id: "Meter.id"
    at: FeatureTime
    level: float | None
    units: int | None
    meter: "Meter"


@features(name="xt_meter")
class Meter:
    id: Primary[str]
    readings: DataFrame[Reading]
    sum_ever: float = _.readings[_.level].sum()
    mean_ever: float | None = _.readings[_.level].mean()
    min_ever: float | None = _.readings[_.level].min()
    max_ever: float | None = _.readings[_.level].max()
    std_ever: float | None = _.readings[_.level].std()
    var_ever: float | None = _.readings[_.level].var()
    first_ever: float | None = _.readings[_.level].first()
    last_ever: float | None = _.readings[_.level].last()
    count_distinct_ever: int = _.readings[_.level].count_distinct()
    median_ever: float | None = _.readings[_.level].approx_percentile(0.5)
    min_by_ever: float | None = F.min_by(_.readings[_.level], _.level)
    max_by_ever: float | None = F.max_by(_.readings[_.level], _.level)
    sum: Windowed[float] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].sum()
    )
    mean: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].mean()
    )
    min: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].min()
    )
    max: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].max()
    )
    std: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].std()
    )
    var: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].var()
    )
    first: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].first()
    )
    last: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].last()
    )
    count_distinct: Windowed[int] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].count_distinct()
    )
    median: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.level, _.at > _.chalk_window].approx_percentile(0.5)
    )
    units_mean: Windowed[float | None] = windowed(
        "1h", "6h", expression=_.readings[_.units, _.at > _.chalk_window].mean()
    )
    units_mean_ever: float | None = _.readings[_.units].mean()
    units_min: Windowed[int | None] = windowed(
        "1h", "6h", expression=_.readings[_.units, _.at > _.chalk_window].min()
    )
    units_max: Windowed[int | None] = windowed(
        "1h", "6h", expression=_.readings[_.units, _.at > _.chalk_window].max()
    )
