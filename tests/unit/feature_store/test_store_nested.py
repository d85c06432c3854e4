"""Lists and structs in packed records: what goes in comes out, typed."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.errors import StoreError
from sunloom.feature_store.stores.field_types import Field, canonical_type, format_type, parse_type
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.record_codec import value_codec

NOON = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
BOX = pl.Struct({"when": UTC_US, "tags, here>": pl.List(pl.String), "days": pl.List(pl.Date)})

NAMED = [
    (pl.List(pl.Float32), "list[float64]"),
    (pl.Array(pl.Int8, 3), "list[int64]"),
    (pl.List(pl.List(pl.Duration("ns"))), "list[list[duration]]"),
    (BOX, 'struct[when: datetime, "tags, here>": list[string], days: list[date]]'),
    (pl.Struct({}), "struct[]"),
    (pl.List(pl.Binary), None),
    (pl.Struct({"a": pl.Datetime("us")}), None),
]


@pytest.mark.parametrize(("dtype", "name"), NAMED)
def test_the_spelling_of_types(dtype: pl.DataType, name: str | None) -> None:
    assert format_type(dtype) == name
    if name is not None:
        assert parse_type(name) == canonical_type(dtype)


def test_records_of_every_nested_kind(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    box = {"when": NOON, "tags, here>": ["ü", None], "days": [date(1969, 1, 1)]}
    columns: dict[str, tuple[pl.DataType, list[Any]]] = {
        "numbers": (pl.List(pl.Float64), [[0.1, math.inf], []]),
        "gaps": (pl.List(pl.Int64), [[1, None, -(2**63)], None]),
        "box": (BOX, [box, None]),
        "boxes": (pl.List(BOX), [[box, None], []]),
        "spans": (pl.List(pl.Duration("us")), [[timedelta(days=-1, microseconds=3)], None]),
        "day": (pl.Date(), [date(2026, 2, 28), None]),
        "span": (pl.Duration("us"), [timedelta(microseconds=-1), None]),
        "after": (pl.Int64(), [7, None]),
    }
    table = pl.DataFrame(
        {name: pl.Series(values, dtype=dtype) for name, (dtype, values) in columns.items()}
    ).with_columns(id=pl.Series([1, 2]), event_time=pl.lit(NOON, UTC_US))
    store.write("s", table)
    expected = table.drop("id", "event_time").to_dicts()
    assert store.read("s", [1, 2]) == expected
    assert store.schema("s").fields[0] == Field("numbers", "list[float64]")
    assert store.read("s", [1], ["boxes"]) == [{"boxes": expected[0]["boxes"]}]


def test_a_list_does_not_become_a_number(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    table = pl.DataFrame({"id": [1], "a": [[1]]}).with_columns(event_time=pl.lit(NOON, UTC_US))
    store.write("s", table)
    with pytest.raises(StoreError, match=r"stored as list\[int64\], but comes as int64"):
        store.write("s", table.explode("a"))


_SCALAR = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=5),
    "datetime": st.datetimes(timezones=st.just(UTC)),
    "date": st.dates(),
    "duration": st.timedeltas(),
}
_TYPED = st.recursive(
    st.sampled_from(list(_SCALAR.items())),
    lambda inner: st.one_of(
        inner.map(lambda one: (f"list[{one[0]}]", st.lists(st.none() | one[1], max_size=3))),
        st.tuples(inner, inner).map(
            lambda two: (
                f'struct["a<": {two[0][0]}, b: {two[1][0]}]',
                st.fixed_dictionaries({"a<": st.none() | two[0][1], "b": st.none() | two[1][1]}),
            )
        ),
    ),
    max_leaves=4,
).filter(lambda typed: typed[0] not in _SCALAR)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), typed=_TYPED)
def test_any_nested_value_comes_back(data: st.DataObject, typed: Any) -> None:
    dtype, values = typed
    value = data.draw(values)
    codec = value_codec(dtype)
    assert codec.decode(codec.encode(value)) == value
