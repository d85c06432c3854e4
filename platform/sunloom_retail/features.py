"""Chalk definitions of the retailer: customers and their purchases.

A customer's values at an as-of time see only purchases whose ``timestamp`` is not later; a window
of 30 days at ``now`` is ``(now - 30 d, now]``.
"""

from datetime import datetime

import chalk.functions as F
import pyarrow as pa
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, windowed
from chalk.features import features

DAY_S = 86_400


@features
class Purchase:
    """One line of the purchase log.

    Key ``id``; event time ``timestamp``; one row a purchase.
    """

    id: Primary[int]
    customer_id: "Customer.id"
    timestamp: FeatureTime
    quantity: int
    amount: float = feature(min=0.0)
    day: int = F.cast(F.floor(F.unix_seconds(_.timestamp) / DAY_S), pa.int64())
    unit_price: float = F.if_then_else(_.quantity > 0, _.amount / _.quantity, 0.0)


@features
class Customer:
    """A customer as of a point in time.

    Key ``id``; grain one row a customer and as-of time. Counts and sums are 0 without purchases;
    recency, tenure, mean and largest amount are null.
    """

    id: Primary[int]
    purchases: DataFrame[Purchase]

    purchase_count: Windowed[int] = windowed(
        "30d", "90d", "180d", expression=_.purchases[_.timestamp > _.chalk_window].count()
    )
    total_amount: Windowed[float] = windowed(
        "30d", "90d", "180d", expression=_.purchases[_.amount, _.timestamp > _.chalk_window].sum()
    )
    frequency: int = _.purchases.count()
    item_count: int = _.purchases[_.quantity].sum()
    lifetime_amount: float = _.purchases[_.amount].sum()
    mean_amount: float | None = _.purchases[_.amount].mean()
    max_amount: float | None = _.purchases[_.amount].max()
    active_days: int = _.purchases[_.day].count_distinct()
    paid_count: int = _.purchases[_.amount > 0.0].count()
    first_seen: datetime | None = _.purchases[_.timestamp].min()
    last_purchase: datetime | None = _.purchases[_.timestamp].max()
    recency_days: float | None = F.total_seconds(_.chalk_now - _.last_purchase) / DAY_S
    tenure_days: float | None = F.total_seconds(_.chalk_now - _.first_seen) / DAY_S
    # From first to last purchase there are active_days - 1 gaps; one day alone has none.
    mean_gap_days: float | None = F.if_then_else(
        _.active_days > 1, (_.tenure_days - _.recency_days) / (_.active_days - 1), None
    )
