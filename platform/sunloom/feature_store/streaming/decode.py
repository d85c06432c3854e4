"""JSON messages to rows of a class; what cannot be read is named with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from sunloom.data.datasets import POSITION, REASON
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.feature_sets import ClassPlan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.typed_rows import conform

_PLACE = "__place__"
_INT = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_PARSED: Mapping[str, Any] = {"int64": int, "float64": float, "bool": bool, "string": str}


@dataclass(frozen=True)
class Decoded:
    """What messages hold.

    Attributes:
        rows: Readable ones as rows in declared types, in order.
        places: Their places among the messages.
        bad: Place and reason of the others.
    """

    rows: pl.DataFrame
    places: pl.Series
    bad: Sequence[tuple[int, str]]


class MessageReader:
    """Reads messages of one class.

    Args:
        item: The class.
        names: Features that a message may hold; other fields are passed over.
        required: Those without which it is of no use: the keys that it is found by, and its time.
    """

    def __init__(self, item: ClassPlan, names: Sequence[str], required: Sequence[str]) -> None:
        self._item = item
        self._names = list(names)
        self._required = list(required)
        self._shape = msgspec.defstruct(
            "Event",
            [
                (f"f{place}", _field_type(item.feature(name).dtype), None)
                for place, name in enumerate(names)
            ],
            rename={f"f{place}": name for place, name in enumerate(names)},
            # They hold plain values alone, and there are many of them.
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(self._shape)

    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """Read the messages."""
        events, places, odd = self._parsed(messages)
        bad: list[tuple[int, str]] = []
        frames = [self._typed_frame(events, places)]
        texts = [text for text in (self._as_text(messages[at], at, bad) for at in odd) if text]
        if texts:
            frames.append(
                pl.DataFrame(texts, schema=dict.fromkeys([*self._names, _PLACE], pl.String))
            )
        return self._conformed([frame for frame in frames if frame.height], bad)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> Decoded:
        """Read objects as if each were a message."""
        return self.decode([json.dumps(row, default=str).encode() for row in rows])

    def _parsed(self, messages: Sequence[bytes | None]) -> tuple[list[Any], list[int], list[int]]:
        events: list[Any] = []
        places: list[int] = []
        odd: list[int] = []
        decode = self._decoder.decode
        for place, message in enumerate(messages):
            try:
                events.append(decode(message or b""))
                places.append(place)
            except (msgspec.DecodeError, UnicodeDecodeError):
                odd.append(place)
        return events, places, odd

    def _typed_frame(self, events: Sequence[Any], places: Sequence[int]) -> pl.DataFrame:
        values = zip(*map(msgspec.structs.astuple, events), strict=True)
        columns = {
            name: pl.Series(column, dtype=_frame_type(self._item.feature(name).dtype))
            for name, column in zip(self._names, values, strict=bool(events))
        }
        return pl.DataFrame({**columns, _PLACE: pl.Series(places, dtype=pl.Int64)})

    def _as_text(
        self, message: bytes | None, place: int, bad: list[tuple[int, str]]
    ) -> dict[str, str | None] | None:
        """Values of other types than declared, as a table of text has them."""
        if not message:
            bad.append((place, "empty message"))
            return None
        try:
            found = json.loads(message)
        except ValueError as error:
            bad.append((place, f"not JSON: {error}"))
            return None
        if not isinstance(found, dict):
            bad.append((place, "not a JSON object"))
            return None
        return {name: _text(found.get(name)) for name in self._names} | {_PLACE: str(place)}

    def _conformed(self, frames: Sequence[pl.DataFrame], bad: list[tuple[int, str]]) -> Decoded:
        parts: list[pl.DataFrame] = []
        for frame in frames:
            places = frame[_PLACE].cast(pl.Int64)
            read = conform(frame, self._item, self._names, "message", places)
            damaged = read.damaged
            bad += zip(damaged[POSITION].to_list(), damaged[REASON].to_list(), strict=True)
            kept = places.filter(~places.is_in(damaged[POSITION].implode()))
            parts.append(read.rows.with_columns(kept.alias(_PLACE)))
        if not parts:
            schema = {name: POLARS[self._item.feature(name).dtype] for name in self._names}
            return Decoded(pl.DataFrame(schema=schema), pl.Series([], dtype=pl.Int64), sorted(bad))
        rows = pl.concat(parts).sort(_PLACE)
        return self._complete(rows, bad)

    def _complete(self, rows: pl.DataFrame, bad: list[tuple[int, str]]) -> Decoded:
        """Set rows aside that lack what they are found by."""
        missing = pl.any_horizontal([pl.col(name).is_null() for name in self._required])
        lacking = rows.filter(missing) if self._required else rows.clear()
        for row in lacking.iter_rows(named=True):
            name = next(name for name in self._required if row[name] is None)
            bad.append((row[_PLACE], f"{name} is missing"))
        kept = rows.filter(~missing) if lacking.height else rows
        return Decoded(kept.drop(_PLACE), kept[_PLACE], sorted(bad))


def _field_type(dtype: DType) -> Any:
    if dtype == "int64":
        from typing import Annotated

        return Annotated[int, _INT] | None
    return _PARSED.get(str(dtype), str) | None


def _frame_type(dtype: DType) -> pl.DataType:
    return POLARS[dtype] if str(dtype) in _PARSED else pl.String()


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
