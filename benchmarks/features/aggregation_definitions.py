"""Chalk classes of the aggregations' benchmark: what costs more than a sum, over seven days."""

from chalk import DataFrame, FeatureTime, Primary, Windowed, _, windowed
from chalk.features import features


@features(name="bench_reading")
class Reading:
    """One reading of a key, its value and the value's kind."""

    id: Primary[int]
    meter_id: "Meter.id"
    at: FeatureTime
    f0: float
    kind: int


@features(name="bench_meter")
class Meter:
    """Seven days of a key's readings, in seven ways."""

    id: Primary[int]
    readings: DataFrame[Reading]
    median: Windowed[float | None] = windowed(
        "7d",
        expression=_.readings[_.f0, _.at > _.chalk_window].approx_percentile(quantile=0.5),
    )
    deviation: Windowed[float | None] = windowed(
        "7d", expression=_.readings[_.f0, _.at > _.chalk_window].std()
    )
    largest: Windowed[float | None] = windowed(
        "7d", expression=_.readings[_.f0, _.at > _.chalk_window].max()
    )
    kind_of_largest: Windowed[int | None] = windowed(
        "7d", expression=_.readings[_.kind, _.at > _.chalk_window].max_by(_.f0)
    )
    kinds: Windowed[int] = windowed(
        "7d", expression=_.readings[_.kind, _.at > _.chalk_window].count_distinct()
    )
    most: Windowed[list[int]] = windowed(
        "7d", expression=_.readings[_.kind, _.at > _.chalk_window].approx_top_k(k=3)
    )
    every: Windowed[list[float]] = windowed(
        "7d", expression=_.readings[_.f0, _.at > _.chalk_window].array_agg()
    )
