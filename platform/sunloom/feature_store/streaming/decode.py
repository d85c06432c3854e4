"""Decoder of JSON messages to rows of a class; unreadable ones are rejected with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import polars as pl

from sunloom.data.quarantine import POSITION, REASON
from sunloom.data.sources.json_objects import parse_json_object
from sunloom.features.plan.feature_sets import ClassPlan
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.sources.typed_rows import conform

PLACE = "__place__"
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_JSON_TYPES: Mapping[str, Any] = {"int64": _INT64, "float64": float, "bool": bool, "string": str}


@dataclass(frozen=True)
class DecodedMessages:
    """The contents of messages.

    Attributes:
        rows: Readable ones as rows in declared types, in order, with their ``PLACE`` among the
            messages.
        rejected: Place and reason of the others.
        tombstones: Messages without a value, which a compacted topic has for deleted keys: there
            is nothing to read in them, and nothing wrong with them.
    """

    rows: pl.DataFrame
    rejected: Sequence[tuple[int, str]]
    tombstones: int = 0


class MessageDecoder:
    """Decodes messages of one class.

    Args:
        item: The class.
        names: Features that a message may have; other fields are ignored.
        required: Those that it must have: time, and a key that every index uses.
    """

    def __init__(self, item: ClassPlan, names: Sequence[str], required: Sequence[str]) -> None:
        self._item = item
        self._names = list(names)
        self._required = list(required)
        # Datetimes, durations, lists and structs arrive as text and are converted with the table.
        dtypes = {name: item.feature(name).dtype for name in names}
        json_types = [_JSON_TYPES.get(str(dtype), str) for dtype in dtypes.values()]
        self._frame_dtypes = {
            name: POLARS[dtype] if str(dtype) in _JSON_TYPES else pl.String()
            for name, dtype in dtypes.items()
        }
        shape = msgspec.defstruct(
            "Event",
            [(f"f{place}", json_type | None, None) for place, json_type in enumerate(json_types)],
            rename={f"f{place}": name for place, name in enumerate(names)},
            # They hold plain values alone, and there are many: the collector need not visit them.
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(shape)

    def decode(self, messages: Sequence[bytes | None]) -> DecodedMessages:
        """Decode the messages."""
        events: list[Any] = []
        places: list[int] = []
        untyped: list[tuple[int, bytes]] = []
        decode = self._decoder.decode
        tombstones = 0
        for place, message in enumerate(messages):
            if message is None:
                tombstones += 1
                continue
            try:
                # One pass from bytes to typed values.
                events.append(decode(message))
                places.append(place)
            # Too many nested brackets, also in a field that is ignored, are a RecursionError.
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                untyped.append((place, message))
        rejected: list[tuple[int, str]] = []
        # Without events there are no columns either, hence the lenient ``zip`` below.
        values = zip(*map(msgspec.structs.astuple, events), strict=True)
        columns = {
            name: pl.Series(column, dtype=self._frame_dtypes[name])
            for name, column in zip(self._names, values, strict=bool(events))
        }
        typed = pl.DataFrame({**columns, PLACE: pl.Series(places, dtype=pl.Int64)})
        # What does not fit the declared types may still be convertible, as text from a CSV file is.
        rows: list[dict[str, str | None]] = []
        for place, message in untyped:
            try:
                rows.append(self._text_row(message) | {PLACE: str(place)})
            except ValueError as error:
                rejected.append((place, str(error)))
        text = pl.DataFrame(rows, schema=dict.fromkeys([*self._names, PLACE], pl.String))
        frames = [frame for frame in (typed, text) if frame.height]
        return replace(self._conform(frames, rejected), tombstones=tombstones)

    def _text_row(self, message: bytes) -> dict[str, str | None]:
        """The message's fields as text; raises ``ValueError`` with the reason of its rejection."""
        if not message:
            raise ValueError("empty message")
        content = parse_json_object(message, self._names)
        values = {name: content.get(name) for name in self._names}
        return {
            name: value if value is None or isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    def _conform(
        self, frames: Sequence[pl.DataFrame], rejected: list[tuple[int, str]]
    ) -> DecodedMessages:
        """Rows in declared types; those that cannot be converted or lack a field are rejected."""
        parts: list[pl.DataFrame] = []
        for frame in frames:
            places = frame[PLACE].cast(pl.Int64)
            typed = conform(frame, self._item, self._names, "message", places)
            damaged = typed.damaged
            rejected += zip(damaged[POSITION].to_list(), damaged[REASON].to_list(), strict=True)
            kept = places.filter(~places.is_in(damaged[POSITION].implode()))
            parts.append(typed.rows.with_columns(kept.alias(PLACE)))
        if not parts:
            schema = {name: POLARS[self._item.feature(name).dtype] for name in self._names}
            empty = pl.DataFrame(schema={**schema, PLACE: pl.Int64})
            return DecodedMessages(empty, sorted(rejected))
        # Back in order of arrival, which decides between events of equal times.
        rows = pl.concat(parts).sort(PLACE)
        if self._required:
            is_missing = pl.any_horizontal([pl.col(name).is_null() for name in self._required])
            incomplete = rows.filter(is_missing)
            for row in incomplete.iter_rows(named=True):
                name = next(name for name in self._required if row[name] is None)
                rejected.append((row[PLACE], f"{name} is missing"))
            rows = rows.filter(~is_missing) if incomplete.height else rows
        return DecodedMessages(rows, sorted(rejected))
