import dataclasses

import chalk.functions as F
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, windowed
from chalk.features import features


@dataclasses.dataclass
class Hub:
    city: str
    gates: int | None


@features
class Departure:
    id: Primary[int]
    airport_id: "Airport.id"
    carrier_id: "Carrier.id"
    left_at: FeatureTime
    delay_minutes: float | None
    is_late: bool | None = _.delay_minutes > 15


@features
class Airport:
    id: Primary[str]
    departures: DataFrame[Departure]
    departures_count: Windowed[int] = windowed(
        "6h", "1d", "7d", expression=_.departures[_.left_at > _.chalk_window].count()
    )
    delay_sum: Windowed[float] = windowed(
        "1d", "7d", expression=_.departures[_.delay_minutes, _.left_at > _.chalk_window].sum()
    )
    mean_delay: float | None = _.departures[_.delay_minutes].mean()
    worst: float | None = _.departures[_.delay_minutes].max()
    last_carrier: str | None = _.departures[_.carrier_id].last()
    carriers: int = _.departures[_.carrier_id].approx_count_distinct()
    hours_since_last: float | None = (
        F.total_seconds(_.chalk_now - _.departures[_.left_at].max()) / 3600
    )


@features
class Carrier:
    id: Primary[str]
    name: str = feature(default="unnamed")
    alliance: str | None
    hub: Hub | None
    tags: list[str] | None
    hub_city: str | None = _.hub.city
    departures: DataFrame[Departure]
    flights: Windowed[int] = windowed(
        "1d", "7d", expression=_.departures[_.left_at > _.chalk_window].count()
    )
    mean_delay: float | None = _.departures[_.delay_minutes].mean()
    last_delay: float | None = _.departures[_.delay_minutes].last()
    recent_airports: Windowed[list[str]] = windowed(
        "6h",
        default=[],
        expression=_.departures[_.airport_id, _.left_at > _.chalk_window].array_agg(),
    )
