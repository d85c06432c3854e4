"""Rows from databases: types, batches, addresses, errors without secrets (SQLite)."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from sunloom.data.sources.databases import (
    fetch,
    fetch_address,
    frame_of,
    is_address,
    is_query,
    sql_batches,
)
from sunloom.data.sources.table_files import read_table
from sunloom.errors import DataError, DependencyError, UsageError


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A SQLite file with one table; gives its URL."""
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute('CREATE TABLE "Order Lines" (id INTEGER, price REAL, at TEXT)')
        rows = [(n, None if n < 3 else n / 2, f"2026-03-01T00:00:0{n}Z") for n in range(7)]
        connection.executemany('INSERT INTO "Order Lines" VALUES (?, ?, ?)', rows)
        connection.execute('CREATE VIEW dear AS SELECT * FROM "Order Lines" WHERE price > 2')
    return f"sqlite:///{tmp_path / 'shop.db'}"


def test_values_of_drivers_become_typed_columns() -> None:
    east = timezone(timedelta(hours=9))
    noon = datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC)
    name = uuid.uuid4()
    frame = frame_of(
        ["whole", "exact", "mixed", "when", "naive", "day", "at", "name", "none", "tags"],
        [
            (
                1,
                Decimal("2.00"),
                1,
                noon,
                noon.replace(tzinfo=None),
                date(2026, 3, 1),
                time(1),
                name,
                None,
                ["a"],
            ),
            (
                None,
                Decimal("3"),
                Decimal("0.5"),
                noon.astimezone(east),
                None,
                None,
                None,
                None,
                None,
                [],
            ),
        ],
    )
    assert frame.schema == {
        "whole": pl.Int64,
        "exact": pl.Int64,
        "mixed": pl.Float64,
        "when": pl.Datetime("us", "UTC"),
        "naive": pl.Datetime("us"),
        "day": pl.Date,
        "at": pl.String,
        "name": pl.String,
        "none": pl.Null,
        "tags": pl.List(pl.String),
    }
    assert frame["when"].to_list() == [noon, noon]
    assert frame["mixed"].to_list() == [1.0, 0.5]
    assert frame_of(["a"], [(Decimal("0.1"),), (Decimal("NaN"),)])["a"].is_nan().to_list() == [
        False,
        True,
    ]
    with pytest.raises(DataError, match="two columns of the name 'a'"):
        frame_of(["a", "a"], [])
    with pytest.raises(DataError, match=r"Column 'a' mixes values .*\(int, str\)"):
        frame_of(["a"], [(1,), ("x",)])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("orders", False),
        ("sales.orders", False),
        ("selection", False),
        ("with_tax", False),
        ("SELECT 1", True),
        ("\n with x AS (SELECT 1) SELECT * FROM x", True),
    ],
)
def test_tables_and_queries_are_told_apart(text: str, query: bool) -> None:
    assert is_query(text) is query


def test_batches_hold_no_more_rows_than_asked(database: str) -> None:
    batches = list(sql_batches(database, "Order Lines", 3))
    assert [batch.height for batch in batches] == [3, 3, 1]
    # No batch knows the others' types; readers settle them by the declared ones.
    assert [batch.schema["price"] for batch in batches] == [pl.Null, pl.Float64, pl.Float64]
    assert pl.concat(batches, how="vertical_relaxed")["id"].to_list() == list(range(7))
    [one] = sql_batches(database, "SELECT count(*) AS n, '12:30:00' AS t FROM dear")
    assert one.rows() == [(2, "12:30:00")]
    [none] = sql_batches(database, "SELECT id FROM dear WHERE id > 99")
    assert none.columns == ["id"]


def test_fetched_rows_are_a_folder_of_parquet(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    assert fetch(sql_batches(database, "Order Lines", 3), folder) == 7
    assert read_table(folder).rows["price"].to_list() == [None, None, None, 1.5, 2, 2.5, 3]

    def broken() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"id": [1]})
        raise DataError("the line went dead")

    with pytest.raises(DataError):
        fetch(broken(), folder)
    assert read_table(folder).rows.height == 7
    assert fetch(sql_batches(database, "dear"), folder) == 2
    assert read_table(folder).rows.height == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_addresses(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(is_address, ("rows.parquet", "/a/b.csv", "C:/rows.csv")))
    assert is_address(f"{database}?table=dear")
    folder = tmp_path / "rows"
    monkeypatch.setenv("FOLDER", str(tmp_path))
    assert fetch_address("sqlite:///${FOLDER}/shop.db?table=dear", folder) == 2
    query = "SELECT id FROM dear WHERE at > '2026-03-01T00:00:05Z'"
    assert fetch_address(f"{database}?query={query.replace(' ', '+')}", folder) == 1
    with pytest.raises(UsageError, match="names no table and no query"):
        fetch_address(database, folder)
    with pytest.raises(UsageError, match="variable 'NOWHERE', which is not set"):
        fetch_address("sqlite:///${NOWHERE}?table=x", folder)


def test_an_unknown_table_lists_the_known_ones(database: str) -> None:
    with pytest.raises(DataError, match=r"no table 'dearr' in sqlite:///.*shop\.db") as caught:
        list(sql_batches(database, "dearr"))
    assert "'dear'" in caught.value.hint
    assert "Order Lines" in caught.value.hint
    with pytest.raises(DataError, match="no such column: nope"):
        list(sql_batches(database, "SELECT nope FROM dear"))


def test_no_secret_in_an_error() -> None:
    for url, kind in (
        ("postgresql://me:secret-word@127.0.0.1:1/shop?connect_timeout=2", DataError),
        ("postgresql://me:secret-word@127.0.0.1:one/shop", UsageError),
        ("nosuchdb://me:secret-word@host/shop", DependencyError),
    ):
        with pytest.raises(kind) as caught:
            list(sql_batches(url, "orders"))
        assert "secret-word" not in str(caught.value)
        assert caught.value.__cause__ is None or "secret-word" not in str(caught.value.__cause__)
