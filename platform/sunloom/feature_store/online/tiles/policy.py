"""What a stream does with events out of time and with messages that it cannot use."""

from __future__ import annotations

from dataclasses import dataclass

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Policy:
    """What happens to events out of time, and to messages that cannot be used.

    Attributes:
        lateness_us: How far behind the latest event an event is not late.
        drops_late: Whether later ones are left out.
        ahead_us: How far ahead of the clock an event may lie.
        max_bad_share: Share of refused messages above which the stream stops.
        after_us: Events up to this moment are left out, because history holds them.
    """

    lateness_us: int = _DAY_US
    drops_late: bool = False
    ahead_us: int = _DAY_US
    max_bad_share: float = 0.01
    after_us: int | None = None
