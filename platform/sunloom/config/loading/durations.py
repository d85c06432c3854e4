"""Durations as people write them: ``90s``, ``15m``, ``1.5h``, ``7d``, ``2w``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(value: Any) -> timedelta:
    """Text such as ``24h``, or a number of seconds, as a duration above zero.

    Raises:
        ValueError: It is neither, or not above zero.
    """
    try:
        if isinstance(value, timedelta):
            duration = value
        # bool is an int in Python: `yes` in YAML would be one second.
        elif isinstance(value, int | float) and not isinstance(value, bool):
            duration = timedelta(seconds=value)
        else:
            match = _FORM.fullmatch(str(value).strip())
            if match is None:
                raise ValueError(f"{value!r} is no duration, such as 90s, 15m, 24h or 7d")
            duration = timedelta(**{_UNITS[match.group(2)]: float(match.group(1))})
    except OverflowError as error:
        raise ValueError(f"{value!r} is longer than a calendar") from error
    if duration <= timedelta(0):
        raise ValueError(f"{value!r} is not above zero")
    return duration


def format_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back."""
    seconds = value.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
"""A duration above zero; ``90s``, ``15m``, ``24h``, ``7d`` or seconds."""
