"""Definitions that the stream tests compute: every aggregation, several windows and edges."""

from datetime import datetime, timedelta

import chalk.functions as F
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, windowed
from chalk.features import features


@features(name="st_trip")
class Trip:
    id: Primary[int]
    rider_id: "Rider.id"
    city_id: "City.id"
    at: FeatureTime
    fare: float | None
    seats: int | None
    paid: bool | None
    note: str | None
    tip: float = feature(default=0.25)
    until: datetime | None
    total: float | None = _.fare * _.seats
    rider: "Rider"
    city: "City"
    rider_trips: int | None = _.rider.trips_in["1d"]
    city_name: str | None = _.city.name


@features(name="st_rider")
class Rider:
    id: Primary[int]
    trips: DataFrame[Trip]
    trips_in: Windowed[int] = windowed(
        "1d", "3d", expression=_.trips[_.at > _.chalk_window].count()
    )
    spent: Windowed[float] = windowed(
        "6h", "1d", "3d", expression=_.trips[_.fare, _.at > _.chalk_window].sum()
    )
    seats_closed: Windowed[int] = windowed(
        "1d", expression=_.trips[_.seats, _.at >= _.chalk_window, _.at <= _.chalk_now].sum()
    )
    seats_until_yesterday: int = _.trips[_.seats, _.at <= _.chalk_now - timedelta(days=1)].sum()
    trips_ever: int = _.trips.count()
    mean_fare: Windowed[float | None] = windowed(
        "1d", expression=_.trips[_.fare, _.at > _.chalk_window].mean()
    )
    mean_ever: float | None = _.trips[_.fare].mean()
    least: Windowed[float | None] = windowed(
        "3d", expression=_.trips[_.fare, _.at > _.chalk_window].min()
    )
    most: Windowed[float | None] = windowed(
        "3d", expression=_.trips[_.fare, _.at > _.chalk_window].max()
    )
    most_seats: int | None = _.trips[_.seats].max()
    spread: Windowed[float | None] = windowed(
        "3d", expression=_.trips[_.fare, _.at > _.chalk_window].std()
    )
    variance: float | None = _.trips[_.fare].var()
    first_note: str | None = _.trips[_.note].first()
    last_note: str | None = _.trips[_.note].last()
    last_fare: Windowed[float | None] = windowed(
        "1d", expression=_.trips[_.fare, _.at > _.chalk_window].last()
    )
    any_paid: bool = _.trips[_.paid].any()
    all_paid: bool = _.trips[_.paid].all()
    notes: Windowed[int] = windowed(
        "3d", expression=_.trips[_.note, _.at > _.chalk_window].count_distinct()
    )
    fares_ever: int = _.trips[_.fare].count_distinct()
    dear: Windowed[int] = windowed(
        "1d", expression=_.trips[_.fare > 10.0, _.at > _.chalk_window].count()
    )
    dear_total: float = _.trips[_.total, _.fare > 1.0].sum()
    tips: float = _.trips[_.tip].sum()
    last_trip: datetime | None = _.trips[_.at].max()
    idle_hours: float | None = F.total_seconds(_.chalk_now - _.last_trip) / 3600
    last_until: datetime | None = _.trips[_.until].last()
    busy: str = F.when(_.trips_ever > 3).then("busy").otherwise("idle")
    capped: float | None = feature(expression=_.mean_ever, max=50.0, strict=True)
    note_of_dearest: str | None = _.trips[_.note].max_by(_.fare)
    median_fare: Windowed[float | None] = windowed(
        "3d", expression=_.trips[_.fare, _.at > _.chalk_window].approx_percentile(0.5)
    )


@features(name="st_city")
class City:
    id: Primary[str]
    at: FeatureTime
    name: str | None
    trips: DataFrame[Trip]
    trips_in: Windowed[int] = windowed("1d", expression=_.trips[_.at > _.chalk_window].count())
