"""Lengths of time as people write them: ``90s``, ``15m``, ``24h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_length(value: Any) -> timedelta:
    """Text such as ``24h``, or a number of seconds, as a positive length of time.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, timedelta):
        found = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = timedelta(seconds=value)
    else:
        match = _FORM.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is no length of time, such as 90s, 15m, 24h or 7d")
        found = timedelta(**{_UNITS[match.group(2)]: float(match.group(1))})
    if found <= timedelta(0):
        raise ValueError(f"{value!r} is not above zero")
    return found


def shown_length(value: timedelta) -> str:
    """The shortest text that ``parse_length`` reads back."""
    seconds = value.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"


Length = Annotated[
    timedelta, BeforeValidator(parse_length), PlainSerializer(shown_length, when_used="json")
]
"""A positive length of time; ``90s``, ``15m``, ``24h``, ``7d`` or seconds."""
