"""Every function against recorded values of Chalk's own evaluator, as a frame and as scalars."""

from __future__ import annotations

import datetime as dt
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chalk.functions as F
import polars as pl
import pyarrow as pa
import pytest
from chalk import Primary, _
from chalk.features import features
from chalk.features.feature_wrapper import unwrap_feature

from sunloom.features.definitions.expressions import ExpressionBinder
from sunloom.features.functions import FUNCTIONS
from sunloom.features.lowering import NOW, Lowering
from sunloom.features.plan import Call, walk
from sunloom.features.scalar import evaluate

GOLDEN = json.loads(Path(__file__).with_name("golden_functions.json").read_text())
# Where we differ on purpose: Chalk's evaluator makes 1970 of NaN.
DIFFERENT = {"F.from_unix_seconds(_.x)": {4: None}}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = {
    "i": pl.Int64,
    "j": pl.Int64,
    "x": pl.Float64,
    "y": pl.Float64,
    "s": pl.String,
    "b": pl.Boolean,
    "c": pl.Boolean,
    "d": pl.Datetime("us", "UTC"),
    "e": pl.Datetime("us", "UTC"),
}


@features(name="sl_values")
class Values:
    id: Primary[int]
    i: int | None
    j: int | None
    x: float | None
    y: float | None
    s: str | None
    b: bool | None
    c: bool | None
    d: dt.datetime | None
    e: dt.datetime | None


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if "float" in value:
            return float(value["float"])
        return datetime.fromisoformat(value["datetime"])
    return value


ROWS = [{name: _decode(value) for name, value in row.items()} for row in GOLDEN["rows"]]


def _bind(text: str):
    return ExpressionBinder(unwrap_feature(Values.id)).bind(
        eval(text, {"F": F, "_": _, "pa": pa, "dt": dt})
    )


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        if math.isnan(expected) or math.isnan(found):
            return math.isnan(expected) and math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)
    return bool(type(found) is type(expected) and found == expected)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["expression"])
def test_function_means_what_chalk_means(case: dict[str, Any]) -> None:
    bound = _bind(case["expression"])
    expected = [_decode(value) for value in case["values"]]
    for row, value in DIFFERENT.get(case["expression"], {}).items():
        expected[row] = value
    frame = pl.DataFrame(ROWS, schema=SCHEMA).with_columns(pl.lit(MOMENT).alias(NOW))
    lowered = frame.select(Lowering().expression(bound).alias("v"))["v"].to_list()
    by_frame = [
        value.astimezone(UTC) if isinstance(value, datetime) else value for value in lowered
    ]
    assert all(map(_same, by_frame, expected)), f"frame {by_frame}, Chalk {expected}"
    by_row = [evaluate(bound, row, MOMENT) for row in ROWS]
    assert all(map(_same, by_row, expected)), f"scalar {by_row}, Chalk {expected}"


def test_every_function_has_a_golden_case() -> None:
    used = {
        node.function
        for case in GOLDEN["cases"]
        for node in walk(_bind(case["expression"]))
        if isinstance(node, Call)
    }
    assert set(FUNCTIONS) - used == set()
