"""Definitions with lists, structs, composite keys and features on features through joins."""

import dataclasses
import enum
from datetime import datetime

import chalk.functions as F
import pyarrow as pa
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, has_many, has_one, windowed
from chalk.features import features


@dataclasses.dataclass
class Place:
    town: str
    code: int | None


@dataclasses.dataclass
class Address:
    city: str
    zip: int
    place: Place | None


@features(name="sl_person")
class Person:
    id: Primary[int]
    at: FeatureTime
    address: Address | None
    tags: list[str] | None
    marks: list[float] = feature(default=[])
    places: list[Place] | None
    city: str | None = _.address.city
    town: str | None = F.upper(_.address.place.town)
    zip_next: int | None = _.address.zip + 1
    tag_count: int | None = F.cardinality(_.tags)
    is_friend: bool | None = F.contains(_.tags, "friend")
    last_tag: str | None = F.element_at(_.tags, -1)
    best: float | None = F.array_max(_.marks)
    pair: list[str] | None = F.array(_.city, _.last_tag)
    visits: "DataFrame[Visit]"
    all_places: list[Place] | None = F.array_agg(_.visits[_.place])
    last_place: Place | None = _.visits[_.place].last()
    tags_of_longest: list[str] | None = _.visits[_.tags].max_by(_.minutes)
    towns: Windowed[list[str]] = windowed(
        "1d", default=[], expression=_.visits[_.town, _.at > _.chalk_window].array_agg()
    )
    top_town: str | None = F.element_at(_.visits[_.town].approx_top_k(k=1), 0)


@features(name="sl_visit")
class Visit:
    id: Primary[int]
    person_id: Person.id
    at: FeatureTime
    minutes: float | None
    tags: list[str] | None
    place: Place | None
    town: str | None = _.place.town
    person: Person
    person_tags: list[str] | None = _.person.tags
    person_address: Address | None = _.person.address
    person_city: str | None = _.person.city


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@features(name="sl_ball")
class Ball:
    id: Primary[int]
    box_id: "Box.id"
    at: FeatureTime
    color: Color | None


@features(name="sl_box")
class Box:
    id: Primary[int]
    label: str | None = feature(version=2, default_version=1)
    color: Color = Color.BLUE
    balls: DataFrame[Ball]
    both: str | None = _.label + "/" + F.coalesce(_.label @ 2, "none")
    reds: int = _.balls[_.color == Color.RED].count()
    matching: bool = _.color == Color.BLUE
    counted: Windowed[int] = windowed(
        "1d", "all", expression=_.balls[_.at > _.chalk_window].count()
    )
    ever: int = _.counted["all"] + 0


@features(name="sl_offer")
class Offer:
    id: Primary[int]
    shop: str | None
    item: int | None
    at: FeatureTime
    price: float | None
    stock: "Stock" = has_one(lambda: (Offer.shop == Stock.shop) & (Offer.item == Stock.item))
    left: int | None = _.stock.amount
    ordered_before: float | None = _.stock.ordered
    cheap: bool | None = _.price < F.coalesce(_.stock.usual, 5.0)


@features(name="sl_stock")
class Stock:
    id: Primary[int]
    shop: str | None
    item: int | None
    at: FeatureTime
    amount: int | None
    orders: "DataFrame[Order]" = has_many(
        lambda: (Stock.shop == Order.shop) & (Stock.item == Order.item)
    )
    ordered: float = _.orders[_.units].sum()
    ordered_today: Windowed[float] = windowed(
        "1d", "2d", default=-1.0, expression=_.orders[_.units, _.at > _.chalk_window].mean()
    )
    usual: float | None = _.orders[_.price].mean()
    text: str = F.cast(F.cast(_.ordered, pa.int64()), pa.string()) + "!"


@features(name="sl_order")
class Order:
    id: Primary[int]
    shop: str | None
    item: int | None
    at: FeatureTime
    units: float | None
    price: float | None
    seen: datetime | None
