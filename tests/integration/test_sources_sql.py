"""Feature rows out of a real PostgreSQL, and out of Snowflake as ``fakesnow`` plays it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.config import load_config
from sunloom.config.features import FeaturesRecipe
from sunloom.data.sources.databases import fetch_address, snowflake_batches, sql_batches
from sunloom.errors import DataError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.stores.online.open import open_online_store

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result:UserWarning"),
]
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def shop(postgres: str) -> Iterator[str]:
    """A schema with purchases; gives the server's URL without a driver's name."""
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA shop")
        connection.exec_driver_sql(
            "CREATE TABLE shop.purchases (id bigint, customer_id int, amount numeric(10, 2), "
            "quantity smallint, timestamp timestamptz, day date, tags text[], ok boolean, "
            "extra jsonb, made uuid DEFAULT gen_random_uuid())"
        )
        connection.execute(
            sa.text(
                "INSERT INTO shop.purchases SELECT n, n % 5 + 1, n + 0.25, 1, "
                "timestamptz '2026-01-01T00:00Z' + n * interval '1 hour', date '2026-01-01', "
                "array['a', 'b'], n % 2 = 0, '{\"k\": 1}' FROM generate_series(0, 999) n"
            )
        )
    yield postgres.replace("+psycopg", "")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA shop CASCADE")
    engine.dispose()


def test_the_types_of_postgresql(shop: str) -> None:
    batches = list(sql_batches(shop, "shop.purchases", 400))
    assert [batch.height for batch in batches] == [400, 400, 200]
    assert batches[0].drop("extra").schema == {
        "id": pl.Int64,
        "customer_id": pl.Int64,
        "amount": pl.Float64,
        "quantity": pl.Int64,
        "timestamp": pl.Datetime("us", "UTC"),
        "day": pl.Date,
        "tags": pl.List(pl.String),
        "ok": pl.Boolean,
        "made": pl.String,
    }
    assert batches[2]["timestamp"][-1] == START + timedelta(hours=999)
    [one] = sql_batches(shop, "SELECT id::text AS id FROM shop.purchases WHERE id = 7")
    assert one.rows() == [("7",)]


def test_postgresql_says_what_it_lacks(shop: str) -> None:
    with pytest.raises(DataError, match=r"no table 'purchase' in schema 'shop'") as caught:
        list(sql_batches(shop, "shop.purchase"))
    assert "purchases" in caught.value.hint
    with pytest.raises(DataError, match='column "nope" does not exist'):
        list(sql_batches(shop, "SELECT nope FROM shop.purchases"))


def _recipe(tmp_path: Path, project_root: Path, source: str) -> FeaturesRecipe:
    (tmp_path / "recipe.yaml").write_text(
        "definitions: retail\nfeature_set: customer\n"
        f"feature_store:\n  batch_source: {source}\n"
        "online: {as_of: 2026-01-31T00:00:00Z}\nexecution: {engine: polars}\n"
    )
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    return load_config(
        FeaturesRecipe, recipe=tmp_path / "recipe.yaml", sets=sets, conf_dir=project_root / "conf"
    ).config


def _check_online(recipe: FeaturesRecipe) -> None:
    assert materialize(recipe).online_entities == 5
    [values] = open_online_store(recipe).read("customer", [3], ["frequency", "lifetime_amount"])
    # Hours 0 to 720 of the month, the last one included.
    ours = [n for n in range(721) if n % 5 + 1 == 3]
    assert values == {"frequency": len(ours), "lifetime_amount": sum(n + 0.25 for n in ours)}


def test_a_recipe_materialises_from_postgresql(
    shop: str, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", shop)
    source = "{type: sql, url: '${SHOP_URL}', tables: {purchase: shop.purchases}, batch_rows: 300}"
    _check_online(_recipe(tmp_path, project_root, source))


def test_a_database_as_source_on_the_command_line(
    shop: str, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    monkeypatch.setenv("PGUSERNAME", "sunloom")
    asked = pl.DataFrame({"id": [3, 3], "event_time": [START, START + timedelta(days=30)]})
    asked.write_parquet(tmp_path / "asked.parquet")
    address = shop.replace("//sunloom@", "//${PGUSERNAME}@") + "?table=shop.purchases"
    words = ["historical", "--definitions", "retail", "--feature-set", "customer"]
    words += ["--source", f"purchase={address}", "--entities", str(tmp_path / "asked.parquet")]
    words += ["--out", str(tmp_path / "out.parquet"), "--json", "--engine", "polars"]
    words += ["--set", f"paths.state={tmp_path / 'state'}"]
    result = CliRunner().invoke(app, ["features", *words], catch_exceptions=False)
    assert json.loads(result.stdout)["rows"] == 2
    assert pl.read_parquet(tmp_path / "out.parquet")["frequency"].to_list() == [0, 144]


@pytest.fixture
def snowflake() -> Iterator[dict[str, Any]]:
    """An account that ``fakesnow`` plays in this process."""
    if importlib.util.find_spec("fakesnow") is None:
        pytest.skip(reason="no Snowflake here: pip install fakesnow")
    import fakesnow

    account = {"account": "acme", "user": "me", "password": "secret-word"}
    account |= {"database": "SHOP", "schema": "PUBLIC"}
    with fakesnow.patch():
        import snowflake.connector

        with snowflake.connector.connect(**account) as connection:
            cursor = connection.cursor()
            cursor.execute(
                "CREATE TABLE PURCHASES (ID NUMBER(38, 0), CUSTOMER_ID NUMBER(38, 0), "
                'AMOUNT NUMBER(10, 2), QUANTITY INT, TIMESTAMP TIMESTAMP_TZ, "Note" VARCHAR)'
            )
            rows = [
                (n, n % 5 + 1, n + 0.25, 1, (START + timedelta(hours=n)).isoformat(), None)
                for n in range(800)
            ]
            cursor.executemany("INSERT INTO PURCHASES VALUES (%s, %s, %s, %s, %s, %s)", rows)
        yield account


def test_tables_and_queries_of_snowflake(snowflake: dict[str, Any], tmp_path: Path) -> None:
    batches = list(snowflake_batches(snowflake, "PURCHASES", 300))
    assert [batch.height for batch in batches] == [300, 300, 200]
    assert batches[0].schema == {
        "id": pl.Int64,
        "customer_id": pl.Int64,
        "amount": pl.Float64,
        "quantity": pl.Int64,
        "timestamp": pl.Datetime("us", "UTC"),
        "Note": pl.Null,
    }
    [none] = snowflake_batches(snowflake, "SELECT ID FROM SHOP.PUBLIC.PURCHASES WHERE ID < 0")
    assert (none.height, none.columns) == (0, ["id"])
    address = "snowflake://me:word@acme/SHOP/PUBLIC?table=PURCHASES"
    assert fetch_address(address, tmp_path / "rows") == 800
    with pytest.raises(DataError, match="NOPE") as caught:
        list(snowflake_batches(snowflake, "NOPE"))
    assert "secret-word" not in str(caught.value)


def test_a_recipe_materialises_from_snowflake(
    snowflake: dict[str, Any], tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_CONNECTION", "snowflake://me:secret-word@acme/SHOP")
    source = (
        "{type: snowflake, connection_string: '${SNOWFLAKE_CONNECTION}', schema: PUBLIC, "
        "tables: {purchase: PURCHASES}}"
    )
    recipe = _recipe(tmp_path, project_root, source)
    assert "secret-word" not in repr(recipe)
    _check_online(recipe)
