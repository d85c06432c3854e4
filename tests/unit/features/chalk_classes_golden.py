"""Classes that golden values are recorded with and compared in."""

import dataclasses
import datetime as dt

from chalk import DataFrame, FeatureTime, Primary, _
from chalk.features import features


@dataclasses.dataclass
class Place:
    town: str
    code: int


@dataclasses.dataclass
class Address:
    city: str
    zip: int
    place: Place


@features(name="sl_values")
class Values:
    id: Primary[int]
    i: int | None
    j: int | None
    x: float | None
    y: float | None
    s: str | None
    q: str | None
    b: bool | None
    c: bool | None
    d: dt.datetime | None
    e: dt.datetime | None
    p: list[int] | None
    m: list[float] | None
    t: list[str] | None
    a: Address | None
    h: str | None


@features(name="sl_event")
class Event:
    id: Primary[int]
    owner_id: "Owner.id"
    at: FeatureTime
    x: float | None
    n: int | None
    s: str | None
    b: bool | None
    d: dt.datetime | None


@features(name="sl_owner")
class Owner:
    id: Primary[int]
    events: DataFrame[Event]
    total: float = _.events[_.x].sum()
