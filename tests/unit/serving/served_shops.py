"""Shops and their visits, for the test of served answers."""

from datetime import datetime

from chalk import DataFrame, FeatureTime, Primary, Windowed, _, windowed
from chalk.features import features


@features(name="served_visit")
class Visit:
    """One visit."""

    id: Primary[int]
    shop_id: "Shop.id"
    at: FeatureTime
    spent: float


@features(name="served_shop")
class Shop:
    """A shop as of a time."""

    id: Primary[int]
    visits: DataFrame[Visit]
    visit_count: Windowed[int] = windowed(
        "1d", "7d", expression=_.visits[_.at > _.chalk_window].count()
    )
    spent: float = _.visits[_.spent].sum()
    last_visit: datetime | None = _.visits[_.at].max()
