"""Definitions that the tests compute and bind."""

from datetime import datetime, timedelta

import chalk.functions as F
import pyarrow as pa
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, windowed
from chalk.features import features


@features(name="sl_sale")
class Sale:
    id: Primary[int]
    shop_id: "Shop.id"
    at: FeatureTime
    price: float | None
    units: int | None
    paid: bool | None
    label: str | None
    gross: float | None = _.price * _.units
    shop: "Shop"
    shop_sales: int | None = _.shop.sales["1d"]


@features(name="sl_shop")
class Shop:
    id: Primary[str]
    city: str | None
    opened: datetime | None
    sold: DataFrame[Sale]
    sales: Windowed[int] = windowed("1d", "7d", expression=_.sold[_.at > _.chalk_window].count())
    revenue: Windowed[float] = windowed(
        "1d", "7d", default=0.0, expression=_.sold[_.price, _.at > _.chalk_window].sum()
    )
    units_in: Windowed[int] = windowed(
        "1d", expression=_.sold[_.units, _.at >= _.chalk_window, _.at <= _.chalk_now].sum()
    )
    revenue_before_yesterday: float = _.sold[_.price, _.at <= _.chalk_now - timedelta(days=1)].sum()
    all_sales: int = _.sold.count()
    mean_price: float | None = _.sold.price.mean()
    low: float | None = _.sold[_.price].min()
    high: float | None = _.sold[_.price].max()
    spread: float | None = _.sold[_.price].std()
    most_units: int | None = _.sold[_.units].max()
    labels: Windowed[int] = windowed(
        "7d", expression=_.sold[_.label, _.at > _.chalk_window].count_distinct()
    )
    last_label: str | None = _.sold[_.label].last()
    first_label: str | None = _.sold[_.label].first()
    any_paid: bool = _.sold[_.paid].any()
    all_paid: bool = _.sold[_.paid].all()
    large: int = _.sold[_.price > 10.0, ~F.is_null(_.label)].count()
    gross_total: float = _.sold[_.gross].sum()
    last_sale: datetime | None = _.sold[_.at].max()
    idle_hours: float | None = F.total_seconds(_.chalk_now - _.last_sale) / 3600
    whole_days: int | None = F.cast(F.floor(_.idle_hours / 24), pa.int64())
    ratio: float | None = _.sold[_.price].sum() / _.sold.count()
    size: str = F.when(_.all_sales > 3).then("big").otherwise("small")
    capped: float | None = feature(expression=_.mean_price, max=50.0, strict=True)


@features(name="sl_sale_limit")
class LimitedSale:
    id: Primary[int]
    till_id: "Till.id"
    at: FeatureTime
    amount: float | None = feature(min=0.0, strict=True, default=0.5)


@features(name="sl_till")
class Till:
    id: Primary[int]
    taken: DataFrame[LimitedSale]
    total: float = _.taken[_.amount].sum()
    known: int = _.taken[_.amount > 0.0].count()
