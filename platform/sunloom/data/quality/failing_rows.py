"""Rows that fail checks: examples for the report, and all of them for the quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from sunloom.data.datasets import POSITION, REASON
from sunloom.data.quality.batches import TypedBatch
from sunloom.data.quality.report import RowExample
from sunloom.data.quarantine import QuarantineWriter

_MOST_CHARACTERS = 200
_MOST_ITEMS = 20


def row_example(
    batch: TypedBatch, row: int, columns: Sequence[str], keys: Sequence[str]
) -> RowExample:
    """One failing row: its position, the value at fault as the source has it, and its keys."""
    values = {name: to_json_value(batch.raw[name][row]) for name in columns}
    return RowExample(
        row=batch.positions[row],
        value=next(iter(values.values())) if len(values) == 1 else values,
        keys={name: to_json_value(batch.raw[name][row]) for name in keys},
    )


def quarantine_rows(
    writer: QuarantineWriter, batch: TypedBatch, failures: Sequence[tuple[str, pl.Series]]
) -> None:
    """Write the rows that any check refuses, with the reasons that apply to them.

    Args:
        writer: The quarantine.
        batch: The rows.
        failures: Reason of each check, and a mask: True where a row fails.
    """
    if not failures:
        return
    # Null means that the row was not checked, which is no failure.
    masks = pl.DataFrame(
        [mask.fill_null(False).alias(str(n)) for n, (_, mask) in enumerate(failures)]
    )
    failing = masks.select(pl.any_horizontal(pl.all())).to_series().arg_true()
    rows = batch.raw[failing].with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    for index, content in zip(failing, rows.iter_rows(named=True), strict=True):
        fails = zip(failures, masks.row(index), strict=True)
        writer.write(
            {
                POSITION: batch.positions[index],
                REASON: "; ".join(reason for (reason, _), is_failing in fails if is_failing),
                "content": {name: to_json_value(value) for name, value in content.items()},
            }
        )


def to_json_value(value: Any) -> Any:
    """A value that JSON can hold; long texts and lists are truncated."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON knows neither NaN nor infinity; their text shows what the source has.
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, list | pl.Series):
        return [to_json_value(item) for item in list(value)[:_MOST_ITEMS]]
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
