"""Chalk classes that the benchmarks compute: ten latest values; three windows of sum and count."""

from chalk import DataFrame, FeatureTime, Primary, Windowed, _, windowed
from chalk.features import features


@features(name="bench_user")
class User:
    """The latest of ten values, by the row's own time."""

    id: Primary[int]
    at: FeatureTime
    f0: float | None
    f1: float | None
    f2: float | None
    f3: float | None
    f4: float | None
    f5: float | None
    f6: float | None
    f7: float | None
    f8: float | None
    f9: float | None


@features(name="bench_event")
class Event:
    """One event of a key."""

    id: Primary[int]
    user_id: "Account.id"
    at: FeatureTime
    f0: float


@features(name="bench_account")
class Account:
    """Sums and counts over three windows of a key's events."""

    id: Primary[int]
    events: DataFrame[Event]
    count: Windowed[int] = windowed(
        "1d",
        "7d",
        "30d",
        expression=_.events[_.at > _.chalk_window, _.at <= _.chalk_now].count(),
    )
    total: Windowed[float] = windowed(
        "1d",
        "7d",
        "30d",
        expression=_.events[_.f0, _.at > _.chalk_window, _.at <= _.chalk_now].sum(),
    )
