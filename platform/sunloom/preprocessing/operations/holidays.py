"""Holidays by rule: fixed days, days of every year, Easter's, and n-th weekdays of a month."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from functools import lru_cache

from sunloom.errors import ConfigError

UNITED_STATES = (
    "01-01",
    "01-mon-3",
    "02-mon-3",
    "05-mon--1",
    "06-19",
    "07-04",
    "09-mon-1",
    "10-mon-2",
    "11-11",
    "11-thu-4",
    "12-25",
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_Finder = Callable[[re.Match[str], int], "date | None"]


@lru_cache(maxsize=4096)
def holidays_of(rules: tuple[str, ...], year: int) -> frozenset[date]:
    """The holidays of a year.

    Args:
        rules: As ``Calendar.holidays`` describes them.
        year: The year.

    Raises:
        ConfigError: A rule has none of the known forms.
    """
    single = [part for rule in rules for part in (UNITED_STATES if rule == "us" else (rule,))]
    days = {_day_of(rule, year) for rule in single}
    return frozenset(day for day in days if day is not None)


def check_rules(rules: Sequence[str]) -> None:
    """Refuse a rule of no known form, before any row is read.

    Raises:
        ConfigError: Names the rule.
    """
    # A leap year: 02-29 is a day of it.
    holidays_of(tuple(rules), 2024)


def easter(year: int) -> date:
    """Western Easter Sunday (the anonymous Gregorian computus)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return date(year, month, day + 1)


def _day_of(rule: str, year: int) -> date | None:
    for pattern, find in _FORMS:
        if match := re.fullmatch(pattern, rule):
            try:
                return find(match, year)
            except ValueError as error:
                raise ConfigError(f"The holiday {rule!r} is no day: {error}.") from error
    raise ConfigError(
        f"There is no holiday rule {rule!r}.",
        "Write 2026-07-03, 12-25, easter+39, 11-thu-4, 05-mon--1 or us.",
        "holidays",
    )


def _single_day(match: re.Match[str], year: int) -> date | None:
    day = date.fromisoformat(match.group())
    return day if day.year == year else None


def _yearly_day(match: re.Match[str], year: int) -> date | None:
    month, day = int(match.group(1)), int(match.group(2))
    if (month, day) == (2, 29) and (year % 4 or (year % 100 == 0 and year % 400)):
        return None
    return date(year, month, day)


def _easter_day(match: re.Match[str], year: int) -> date | None:
    return easter(year) + timedelta(days=int(match.group(1) or 0))


def _nth_weekday(match: re.Match[str], year: int) -> date | None:
    month, weekday, nth = int(match[1]), _WEEKDAYS.index(match[2]), int(match[3])
    if nth > 0:
        first = date(year, month, 1)
        day = first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))
    else:
        last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
        day = last - timedelta(days=(last.weekday() - weekday) % 7 + 7 * (-nth - 1))
    # A fifth weekday that the month does not have falls into the next one.
    return day if day.month == month else None


_FORMS: tuple[tuple[str, _Finder], ...] = (
    (r"\d{4}-\d\d-\d\d", _single_day),
    (r"(\d\d)-(\d\d)", _yearly_day),
    (r"easter([+-]\d+)?", _easter_day),
    (rf"(\d\d)-({'|'.join(_WEEKDAYS)})-(-?[1-5])", _nth_weekday),
)
