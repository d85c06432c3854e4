"""Every function against recorded values of Chalk's own evaluator, as a frame and as scalars."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import chalk.functions as F
import polars as pl
import pyarrow as pa
import pytest
from chalk import _
from chalk.features.feature_wrapper import unwrap_feature
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.feature_store.online.read_plan import compile_expression
from sunloom.features.definitions.bind_expressions import ExpressionBinder
from sunloom.features.definitions.open import catalogue_of
from sunloom.features.expressions.functions.table import FUNCTIONS
from sunloom.features.expressions.to_polars import to_polars
from sunloom.features.plan.expressions import Call, Expr, walk
from sunloom.features.plan.feature_sets import NOW
from sunloom.features.plan.polars_dtypes import POLARS

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_functions.json").read_text())
# Where we differ on purpose: Chalk's evaluator makes 1970 of NaN.
DIFFERENT = {
    "F.from_unix_seconds(_.x)": {4: None},
    "F.from_unix_seconds(_.x / 1000)": {4: None},
    "F.from_unix_milliseconds(_.x)": {4: None},
}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
CLASS = catalogue_of(str(HERE / "chalk_classes_golden.py")).plan("sl_values").root
SCHEMA = {feature.name: POLARS[feature.dtype] for feature in CLASS.features if feature.name != "id"}


def _values() -> Any:
    from chalk.features import FeatureSetBase

    return FeatureSetBase.registry["sl_values"]


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    decoders: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "datetime": datetime.fromisoformat,
        "bytes": bytes.fromhex,
        "struct": lambda fields: {name: _decode(item) for name, item in fields.items()},
    }
    ((kind, held),) = value.items()
    return decoders[kind](held)


ROWS = [{name: _decode(value) for name, value in row.items()} for row in GOLDEN["rows"]]


@cache
def _bind(text: str) -> Expr:
    return ExpressionBinder(unwrap_feature(_values().id)).bind(
        eval(text, {"F": F, "_": _, "pa": pa, "dt": dt})
    )


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        if math.isnan(expected) or math.isnan(found):
            return math.isnan(expected) and math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(_same(found[n], expected[n]) for n in found)
    return bool(type(found) is type(expected) and found == expected)


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.lit(MOMENT).alias(NOW))


def _by_frame(bound: Expr, frame: pl.DataFrame) -> list[Any]:
    lowered = frame.select(to_polars(bound).alias("v"))["v"].to_list()
    # A literal alone is one value for all rows.
    repeated = lowered * (frame.height // max(1, len(lowered)))
    return [v.astimezone(UTC) if isinstance(v, datetime) else v for v in repeated]


@cache
def _compiled(bound: Expr) -> Callable[..., Any]:
    return compile_expression(bound, {})


def _by_row(bound: Expr, rows: list[dict[str, Any]]) -> list[Any]:
    compute = _compiled(bound)
    return [compute(row, MOMENT, ()) for row in rows]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["expression"])
def test_function_means_what_chalk_means(case: dict[str, Any]) -> None:
    bound = _bind(case["expression"])
    expected = [_decode(value) for value in case["values"]]
    for row, value in DIFFERENT.get(case["expression"], {}).items():
        expected[row] = value
    by_frame = _by_frame(bound, _frame(ROWS))
    assert all(map(_same, by_frame, expected)), f"frame {by_frame}, Chalk {expected}"
    by_row = _by_row(bound, ROWS)
    assert all(map(_same, by_row, expected)), f"scalar {by_row}, Chalk {expected}"


def test_every_function_has_a_golden_case() -> None:
    used = {
        node.function
        for case in GOLDEN["cases"]
        for node in walk(_bind(case["expression"]))
        if isinstance(node, Call)
    }
    assert set(FUNCTIONS) - used == set()


_INTEGERS = st.one_of(st.none(), st.integers(-12, 12), st.sampled_from([2**40, -(2**40)]))
_FLOATS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.5, math.nan, math.inf, -math.inf, 1e9]),
    st.floats(-1e6, 1e6),
)
_TEXTS = st.one_of(
    st.none(),
    st.sampled_from(["", "a", "ab@b", " é ", "12", "-3.5", "+7", "Infinity", "NaN", "T", "1e3"]),
    st.text("ab@é1.-+ \n😀", max_size=8),
)
_MOMENTS = st.one_of(
    st.none(),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
_ADDRESSES = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "city": _TEXTS,
            "zip": _INTEGERS,
            "place": st.fixed_dictionaries({"town": _TEXTS, "code": _INTEGERS}),
        }
    ),
)
_DOCUMENTS = st.one_of(
    st.none(),
    st.sampled_from(
        ['{"k": "2.5"}', '{"k": 1e400}', '{"a": {"b": [0, -1.5, "true", []]}}', "[1, [2]]", "5"]
    ),
)


def _lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.lists(items, max_size=5))


_ROW = st.fixed_dictionaries(
    {
        "i": _INTEGERS,
        "j": _INTEGERS,
        "x": _FLOATS,
        "y": _FLOATS,
        "s": _TEXTS,
        "q": _TEXTS,
        "b": st.sampled_from([None, True, False]),
        "c": st.sampled_from([None, True, False]),
        "d": _MOMENTS,
        "e": _MOMENTS,
        "p": _lists(_INTEGERS),
        "m": _lists(_FLOATS),
        "t": _lists(_TEXTS),
        "a": _ADDRESSES,
        "h": _DOCUMENTS,
    }
)


@given(st.lists(_ROW, min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_frames_and_single_values_agree(rows: list[dict[str, Any]]) -> None:
    frame = _frame(rows)
    for case in GOLDEN["cases"]:
        bound = _bind(case["expression"])
        found = zip(rows, _by_frame(bound, frame), _by_row(bound, rows), strict=True)
        for row, by_frame, by_row in found:
            assert _close(by_frame, by_row), (case["expression"], row, by_frame, by_row)


def _close(frame: Any, single: Any) -> bool:
    if isinstance(frame, float) and isinstance(single, float) and math.isfinite(frame):
        return math.isclose(frame, single, rel_tol=1e-9, abs_tol=1e-9)
    return _same(frame, single)


@pytest.mark.parametrize("expression", ["-_.x", "F.abs(_.x)", "-_.i", "F.abs(_.i)", "_.i % _.j"])
def test_the_ends_of_64_bits_are_the_same_in_frames_and_rows(expression: str) -> None:
    ends = [-(2**63), -(2**63) + 1, -(2**62) - 1, -1, 5, 2**62 + 3, 2**63 - 1]
    rows = [
        dict.fromkeys(SCHEMA) | {"i": i, "j": j, "x": float(i)} for i in ends for j in (*ends, 0)
    ]
    bound = _bind(expression)
    by_frame = _by_frame(bound, _frame(rows))
    assert _by_row(bound, rows) == by_frame
    if "x" in expression:
        assert by_frame[0] == 2.0**63
    elif "%" in expression:
        # The dividend's sign, as in C.
        assert by_frame == [
            (abs(i) % abs(j)) * (-1 if i < 0 else 1) if j else None
            for i in ends
            for j in (*ends, 0)
        ]
    else:
        assert by_frame[0] is None
