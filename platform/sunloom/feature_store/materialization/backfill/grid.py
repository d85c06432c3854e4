"""The chunks of a backfill: spans of time, and the moments in each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

_SPANS = 16
_SECOND = timedelta(seconds=1)
_FORM = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class TimeRange:
    """A chunk's time: from ``start`` on, before ``end``, UTC."""

    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """The name of its folder; in order of time."""
        return f"from={self.start:{_FORM}}"


@dataclass(frozen=True)
class Grid:
    """What is asked, whatever the order in which it is answered.

    Attributes:
        start: First moment.
        end: The end, not in it.
        every: Between moments; None where the entities bring their own.
        chunk: Length of a chunk.
        partitions: Partitions by key hash.
    """

    start: datetime
    end: datetime
    every: timedelta | None
    chunk: timedelta
    partitions: int

    def spans(self) -> list[TimeRange]:
        """The chunks' times, one after another."""
        count = math.ceil((self.end - self.start) / self.chunk)
        starts = [self.start + index * self.chunk for index in range(count)]
        return [TimeRange(at, min(at + self.chunk, self.end)) for at in starts]

    def moments(self, span: TimeRange) -> Iterator[datetime]:
        """The moments of the grid in a chunk's time."""
        assert self.every is not None
        number = math.ceil((span.start - self.start) / self.every)
        while (moment := self.start + number * self.every) < span.end:
            yield moment
            number += 1

    def described(self) -> str:
        """As JSON, the same for the same grid."""
        return json.dumps(asdict(self), default=str, sort_keys=True)


def grid_of(
    start: datetime,
    end: datetime,
    every: timedelta | None,
    chunk: timedelta | None,
    partitions: int,
) -> Grid:
    """The grid; a chunk is a sixteenth of the range by default, whole steps of the grid."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    step = every or _SECOND
    wanted = chunk or (end - start) / _SPANS
    return Grid(start, end, every, step * max(1, math.ceil(wanted / step)), partitions)
