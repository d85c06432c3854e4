"""Rows that make a check fail: examples in the report, all of them in the quarantine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import polars as pl

from sunloom.core.files import atomic_path
from sunloom.data.datasets import POSITION, REASON
from sunloom.data.quality.batches import TypedBatch
from sunloom.data.sources.files import Damaged

_SHOWN_CHARACTERS = 200


def example(
    chunk: TypedBatch, row: int, shown: Sequence[str], keys: Sequence[str]
) -> dict[str, Any]:
    """One failing row: where it stands, the value at fault as it was found, and its keys."""
    values = {name: plain(chunk.raw[name][row]) for name in shown}
    return {
        "row": chunk.positions[row],
        "value": next(iter(values.values())) if len(values) == 1 else values,
        "keys": {name: plain(chunk.raw[name][row]) for name in keys},
    }


def plain(value: Any) -> Any:
    """A value that JSON can hold; long texts are cut."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, list | pl.Series):
        return [plain(one) for one in list(value)[:20]]
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


class QuarantineWriter:
    """Writes the quarantine file, whole or not at all; there is none where no row was refused.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._target = path
        self._file: IO[str] | None = None
        self._open = ExitStack()
        self.path: Path | None = None

    def __enter__(self) -> QuarantineWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self._target is None:
            return
        if self._file is None:
            self._target.unlink(missing_ok=True)
            return
        # Closes the file first; only then, and without an error, it takes its place.
        self._open.__exit__(kind, *rest)
        if kind is None:
            self.path = self._target

    def add_damaged(self, damaged: Damaged) -> None:
        """Write a row that could not be read."""
        self._write(asdict(damaged))

    def add(self, chunk: TypedBatch, refused: Sequence[tuple[str, pl.Series]]) -> None:
        """Write the rows that any of the masks marks, with the reasons that apply to them."""
        if self._target is None or not refused:
            return
        masks = pl.DataFrame(
            [mask.fill_null(False).alias(str(n)) for n, (_, mask) in enumerate(refused)]
        )
        hits = masks.select(pl.any_horizontal(pl.all())).to_series().arg_true()
        rows = chunk.raw[hits].with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
        for index, content in zip(hits, rows.iter_rows(named=True), strict=True):
            reasons = [why for (why, _), at in zip(refused, masks.row(index), strict=True) if at]
            self._write(
                {
                    POSITION: chunk.positions[index],
                    REASON: "; ".join(reasons),
                    "content": {name: plain(value) for name, value in content.items()},
                }
            )

    def _write(self, entry: dict[str, Any]) -> None:
        if self._target is None:
            return
        if self._file is None:
            partial = self._open.enter_context(atomic_path(self._target))
            self._file = self._open.enter_context(partial.open("w", encoding="utf-8"))
        self._file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
