"""Histograms kept in the database by hour and day; no rows are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Integer, LargeBinary, String, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime
from sunloom.monitoring.bins import Bins
from sunloom.monitoring.histograms import Histogram, empty_histogram, merge_histograms

HOUR, DAY, REFERENCE = "hour", "day", "reference"
_LENGTH = {HOUR: timedelta(hours=1), DAY: timedelta(days=1)}
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class HistogramRow(Base):
    """Counts of one hour or day, or of the reference, of all features of a monitor."""

    __tablename__ = "monitor_histograms"

    monitor: Mapped[str] = mapped_column(String(200), primary_key=True)
    cells: Mapped[str] = mapped_column(String(32), primary_key=True)
    grain: Mapped[str] = mapped_column(String(20), primary_key=True)
    start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    rows: Mapped[int] = mapped_column(Integer)
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class MonitorRow(Base):
    """What a monitor knows of itself between runs."""

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
        database: Where they lie.
        monitor: The monitor's name.
        cells: The cells that are counted; counts on other cells are not seen.
    """

    def __init__(self, database: Database, monitor: str, cells: Bins) -> None:
        database.ensure(HistogramRow)
        self._database = database
        self._monitor = monitor
        self.cells = cells

    def put(self, hours: Mapping[datetime, Histogram], grain: str = HOUR) -> None:
        """Write counts; those of the same start are replaced, so a repeated run changes nothing."""
        with self._database.session() as session:
            for start, histogram in hours.items():
                session.merge(
                    HistogramRow(
                        monitor=self._monitor, cells=self.cells.id, grain=grain, start=start,
                        rows=histogram.rows, packed=histogram.packed(),
                    )
                )  # fmt: skip

    def between(self, start: datetime, end: datetime) -> Histogram:
        """All rows from ``start`` until before ``end``; bounds lie on hours.

        Days that are merged into one count where they begin in between.
        """
        return merge_histograms(self._read((HOUR, DAY), [(start, end)]), self.cells)

    def within(self, spans: Sequence[tuple[datetime, datetime]]) -> Histogram:
        """All rows of several such spans."""
        return merge_histograms(self._read((HOUR, DAY), spans), self.cells)

    def starts(self, start: datetime, end: datetime) -> list[datetime]:
        """Hours and days in between that have counts."""
        span = (HistogramRow.start >= start, HistogramRow.start < end, HistogramRow.rows > 0)
        query = select(HistogramRow.start).where(
            *self._mine(), HistogramRow.grain.in_((HOUR, DAY)), *span
        )
        with self._database.session() as session:
            return list(session.scalars(query))

    def reference(self) -> Histogram:
        """The counts of the reference table; none where it was not counted."""
        found = list(self._read((REFERENCE,), [(EPOCH, EPOCH + timedelta(hours=1))]))
        return found[0] if found else empty_histogram(self.cells)

    def put_reference(self, histogram: Histogram) -> None:
        """Keep the counts of the reference table."""
        self.put({EPOCH: histogram}, REFERENCE)

    def _read(
        self, grains: Sequence[str], spans: Iterable[tuple[datetime, datetime]]
    ) -> Iterable[Histogram]:
        query = select(HistogramRow.packed).where(*self._mine(), HistogramRow.grain.in_(grains))
        with self._database.session() as session:
            for start, end in spans:
                span = query.where(HistogramRow.start >= start, HistogramRow.start < end)
                for packed in session.scalars(span):
                    yield Histogram.unpacked(packed, self.cells)

    def roll_up(self, before: datetime) -> int:
        """Merge the hours of each whole day before ``before`` into one; how many days that made."""
        limit = EPOCH + (before - EPOCH) // _LENGTH[DAY] * _LENGTH[DAY]
        hourly = (*self._mine(), HistogramRow.grain == HOUR, HistogramRow.start < limit)
        with self._database.session() as session:
            days: dict[datetime, list[Histogram]] = {}
            for row in session.scalars(select(HistogramRow).where(*hourly)):
                day = EPOCH + (row.start - EPOCH) // _LENGTH[DAY] * _LENGTH[DAY]
                days.setdefault(day, []).append(Histogram.unpacked(row.packed, self.cells))
            for day, parts in days.items():
                key = {"monitor": self._monitor, "cells": self.cells.id, "grain": DAY, "start": day}
                held = session.get(HistogramRow, key)
                before_it = [Histogram.unpacked(held.packed, self.cells)] if held else []
                whole = merge_histograms([*before_it, *parts], self.cells)
                session.merge(HistogramRow(**key, rows=whole.rows, packed=whole.packed()))
            session.execute(delete(HistogramRow).where(*hourly))
        return len(days)

    def forget(self, before: datetime) -> None:
        """Drop what is older, and what was counted on other cells."""
        mine = HistogramRow.monitor == self._monitor
        old = (HistogramRow.grain != REFERENCE) & (HistogramRow.start < before)
        with self._database.session() as session:
            session.execute(delete(HistogramRow).where(mine, old))
            session.execute(delete(HistogramRow).where(mine, HistogramRow.cells != self.cells.id))

    def _mine(self) -> tuple[Any, ...]:
        return HistogramRow.monitor == self._monitor, HistogramRow.cells == self.cells.id


def floor_hour(moment: datetime) -> datetime:
    """The hour that the moment lies in."""
    return EPOCH + (moment - EPOCH) // _LENGTH[HOUR] * _LENGTH[HOUR]


def floor_to(moment: datetime, length: timedelta) -> datetime:
    """The window of that length that the moment lies in; windows are counted from 1970."""
    return EPOCH + (moment - EPOCH) // length * length
