"""Shops and their sales."""

from chalk import DataFrame, FeatureTime, Primary, _
from chalk.features import features


@features
class QgSale:
    id: Primary[int]
    shop_id: "QgShop.id"
    price: float
    at: FeatureTime


@features
class QgShop:
    id: Primary[str]
    sales: DataFrame[QgSale]
    takings: float = _.sales[_.price].sum()
    dearest: float | None = _.sales[_.price].max()
