"""Policy for late, early and unusable events of a stream."""

from __future__ import annotations

from dataclasses import dataclass

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class EventPolicy:
    """What happens to late and early events, and to messages that cannot be used.

    Attributes:
        lateness_us: How far behind the watermark, the latest event time, an event is not late.
        drops_late: Whether late events are dropped.
        ahead_us: How far ahead of the clock an event time may be.
        max_bad_share: Share of quarantined messages above which the stream stops.
        after_us: Events up to this time are dropped: the batch source has them.
    """

    lateness_us: int = _DAY_US
    drops_late: bool = False
    ahead_us: int = _DAY_US
    max_bad_share: float = 0.01
    after_us: int | None = None
