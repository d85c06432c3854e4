"""Definitions with Python resolvers of every kind that is run."""

import asyncio
import time
from datetime import datetime

import polars as pl
from chalk import (
    DataFrame,
    FeatureTime,
    Now,
    Primary,
    Windowed,
    _,
    feature,
    offline,
    online,
    windowed,
)
from chalk.features import Features, features


@features(name="rs_visit")
class Visit:
    id: Primary[int]
    guest_id: "Guest.id"
    at: FeatureTime
    paid: float
    tax: float | None
    guest: "Guest"
    shout: str | None


@features(name="rs_hotel")
class Hotel:
    id: Primary[str]
    since: FeatureTime
    title: str
    slug: str
    stars: int | None


@features(name="rs_guest")
class Guest:
    id: Primary[int]
    noted: FeatureTime
    name: str
    hotel_id: Hotel.id
    hotel: Hotel
    visits: DataFrame[Visit]
    visit_count: Windowed[int] = windowed(
        "1d", "7d", expression=_.visits[_.at > _.chalk_window].count()
    )
    taxes: float = _.visits[_.tax].sum()
    greeting: str | None
    upper: str | None
    length: int | None
    doubled: float | None
    spent: float | None
    last_at: datetime | None
    gap_hours: float | None
    limited: int | None = feature(max=3, strict=True)
    careful: int = 7
    both: str | None
    after: int | None = _.length + 1


@online
def greet(
    name: Guest.name,
    seen: Guest.visit_count["1d"],  # noqa: F722 - chalkpy's way to name a window
    slug: Guest.hotel.slug,
    now: Now,
) -> Guest.greeting:
    return f"{name} {seen} {slug} {now.hour}"


@online
async def measure(
    name: Guest.name | None, word: Guest.hotel.title = "?"
) -> Features[Guest.upper, Guest.length]:
    await asyncio.sleep(0.001)
    if name is None:
        return Guest(upper=word, length=None)
    return Guest(upper=name.upper() + word, length=len(name))


@offline
def double(
    df: DataFrame[Guest.id, Guest.name, Guest.hotel.stars],
) -> DataFrame[Guest.id, Guest.doubled]:
    rows = df.to_polars().collect()
    stars = pl.col("rs_guest.hotel.stars").cast(pl.Float64) * 2
    return rows.select("rs_guest.id", stars.alias("rs_guest.doubled"))


@online
def spend(
    visits: Guest.visits[Visit.paid, Visit.at], now: Now
) -> Features[Guest.spent, Guest.last_at, Guest.gap_hours]:
    rows = visits.to_polars().collect()
    if not rows.height:
        return Guest(spent=0.0, last_at=None, gap_hours=None)
    last = rows["rs_visit.at"].max()
    gap = (now - last).total_seconds() / 3600
    return Guest(spent=rows["rs_visit.paid"].sum(), last_at=last, gap_hours=gap)


@online
def tax(paid: Visit.paid) -> Visit.tax:
    return paid / 2


@online
def shout(name: Visit.guest.name) -> Visit.shout:
    return name.upper() + "!"


@online
def slug(title: Hotel.title) -> Hotel.slug:
    return title.lower()


@online
def limit(name: Guest.length) -> Guest.limited:
    return name


@online(timeout="60ms")
def take_care(key: Guest.id) -> Guest.careful:
    if key == 2:
        time.sleep(0.3)
    if key == 3:
        raise RuntimeError("no luck")
    return key


@online
def both_now(name: Guest.name) -> Guest.both:
    return f"online {name}"


@offline
def both_then(name: Guest.name) -> Guest.both:
    return f"offline {name}"
