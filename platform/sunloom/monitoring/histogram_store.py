"""Histograms in the database, by hour and day; rows are not stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, LargeBinary, String, bindparam, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime
from sunloom.monitoring.histograms import Bins, Histogram, merge_histograms
from sunloom.monitoring.windows import DAY, EPOCH, HOUR, TimeSpan, floor_to

_HOURS, _DAYS, _REFERENCE = "hour", "day", "reference"


class HistogramRow(Base):
    """Counts of one hour or day, or of the reference, of all features of a monitor."""

    __tablename__ = "monitor_histograms"

    # The columns keep the names of the tables that exist: nothing here migrates a database.
    monitor: Mapped[str] = mapped_column(String(200), primary_key=True)
    cells: Mapped[str] = mapped_column(String(32), primary_key=True)
    grain: Mapped[str] = mapped_column(String(20), primary_key=True)
    start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    rows: Mapped[int] = mapped_column(Integer)
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class MonitorRow(Base):
    """A monitor's state between runs."""

    __tablename__ = "monitors"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    cells: Mapped[str] = mapped_column(String)
    basis: Mapped[str] = mapped_column(String(64))
    recorded_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    judged: Mapped[dict[str, str]] = mapped_column(JSON)
    streaks: Mapped[dict[str, Any]] = mapped_column(JSON)


class HistogramStore:
    """One monitor's counts.

    Args:
        database: The database.
        monitor: The monitor's name.
        bins: The bins that are counted; counts on other bins are not read.
    """

    def __init__(self, database: Database, monitor: str, bins: Bins) -> None:
        database.ensure(HistogramRow)
        self._database = database
        self._monitor = monitor
        self._is_own = (HistogramRow.monitor == monitor, HistogramRow.cells == bins.id)
        self.bins = bins

    def put(self, hours: Mapping[datetime, Histogram]) -> None:
        """Write counts by hour; those of the same hour are replaced, so a run can be repeated."""
        self._put(hours, _HOURS)

    def put_reference(self, histogram: Histogram) -> None:
        """Write the counts of the reference table."""
        # The reference is of no hour, but the primary key needs a start.
        self._put({EPOCH: histogram}, _REFERENCE)

    def _put(self, histograms: Mapping[datetime, Histogram], grain: str) -> None:
        if not histograms:
            return
        # A second count of an hour replaces the first. Not session.merge: one query a row.
        replaced = delete(HistogramRow).where(
            *self._is_own, HistogramRow.grain == grain, HistogramRow.start == bindparam("hour")
        )
        with self._database.session() as session:
            session.connection().execute(replaced, [{"hour": start} for start in histograms])
            session.add_all(self._row(item, grain, start) for start, item in histograms.items())

    def _row(self, histogram: Histogram, grain: str, start: datetime) -> HistogramRow:
        return HistogramRow(
            monitor=self._monitor,
            cells=self.bins.id,
            grain=grain,
            start=start,
            rows=histogram.rows,
            packed=histogram.encode(),
        )

    def read(self, spans: Iterable[TimeSpan]) -> Histogram:
        """All rows of the spans, whose bounds are whole hours.

        Days that are merged into one count belong to the span that they begin in.
        """
        return self._read((_HOURS, _DAYS), spans)

    def read_reference(self) -> Histogram:
        """The counts of the reference table; empty where it was not counted."""
        return self._read((_REFERENCE,), [TimeSpan(EPOCH, EPOCH + HOUR)])

    def starts(self, span: TimeSpan) -> list[datetime]:
        """Starts of the hours and days in the span that have rows."""
        query = select(HistogramRow.start).where(
            *self._is_own,
            HistogramRow.grain.in_((_HOURS, _DAYS)),
            HistogramRow.start >= span.start,
            HistogramRow.start < span.end,
            # An hour without rows is stored when it is counted again, and makes no window due.
            HistogramRow.rows > 0,
        )
        with self._database.session() as session:
            return list(session.scalars(query))

    def _read(self, grains: Sequence[str], spans: Iterable[TimeSpan]) -> Histogram:
        query = select(HistogramRow.packed).where(*self._is_own, HistogramRow.grain.in_(grains))
        with self._database.session() as session:
            parts = [
                Histogram.decode(encoded, self.bins)
                for start, end in spans
                for encoded in session.scalars(
                    query.where(HistogramRow.start >= start, HistogramRow.start < end)
                )
            ]
        return merge_histograms(parts, self.bins)

    def roll_up(self, before: datetime) -> int:
        """Merge the hours of each whole day before ``before`` into one count.

        Returns:
            Days that were merged.
        """
        is_old = (
            *self._is_own,
            HistogramRow.grain == _HOURS,
            HistogramRow.start < floor_to(before, DAY),
        )
        with self._database.session() as session:
            days: dict[datetime, list[Histogram]] = {}
            for row in session.scalars(select(HistogramRow).where(*is_old)):
                parts = days.setdefault(floor_to(row.start, DAY), [])
                parts.append(Histogram.decode(row.packed, self.bins))
            for day, parts in days.items():
                key = (self._monitor, self.bins.id, _DAYS, day)
                # Rows that came too late for the first merge of their day are added to it.
                earlier = session.get(HistogramRow, key)
                if earlier is not None:
                    parts.append(Histogram.decode(earlier.packed, self.bins))
                session.merge(self._row(merge_histograms(parts, self.bins), _DAYS, day))
            # In the same transaction: a row is counted in its hour or in its day, never in both.
            session.execute(delete(HistogramRow).where(*is_old))
        return len(days)

    def delete_before(self, limit: datetime) -> None:
        """Delete counts before the limit, and all that were counted on other bins."""
        is_own = HistogramRow.monitor == self._monitor
        is_old = (HistogramRow.grain != _REFERENCE) & (HistogramRow.start < limit)
        with self._database.session() as session:
            session.execute(delete(HistogramRow).where(is_own, is_old))
            session.execute(delete(HistogramRow).where(is_own, HistogramRow.cells != self.bins.id))
