"""A recipe's rows from databases, brought to where every executor reads files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from sunloom.config.data.sources import DatasetSource, FilesSource, SnowflakeSource, SqlSource
from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.core.telemetry import get_logger

_log = get_logger("features.sources")


def fetch_sources(recipe: FeaturesRecipe) -> dict[str, int]:
    """Fetch the recipe's tables to ``source_paths``; nothing to do where they are files.

    Returns:
        Namespace to its number of rows.

    Raises:
        DataError: The database cannot be reached or refuses.
        DependencyError: Its driver is not installed.
    """
    source = recipe.feature_store.batch_source
    if isinstance(source, FilesSource | DatasetSource):
        return {}
    from sunloom.data.sources.fetch import fetch

    paths = recipe.source_paths()
    counts: dict[str, int] = {}
    for name, wanted in source.tables.items():
        counts[name] = fetch(_batches(source, wanted), paths[name])
        _log.info("fetched %d rows of %s", counts[name], name)
    return counts


def _batches(source: SqlSource | SnowflakeSource, wanted: str) -> Iterator[pl.DataFrame]:
    if isinstance(source, SqlSource):
        from sunloom.data.sources.sql import sql_batches

        return sql_batches(source.url.get_secret_value(), wanted, source.batch_rows)
    from sunloom.data.sources.snowflake import snowflake_batches

    return snowflake_batches(_account(source), wanted, source.batch_rows)


def _account(source: SnowflakeSource) -> dict[str, Any]:
    named: dict[str, Any] = {
        "account": source.account,
        "user": source.user,
        "role": source.role,
        "warehouse": source.warehouse,
        "database": source.database,
        "schema": source.schema_name,
    }
    if source.password is not None:
        named["password"] = source.password.get_secret_value()
    if source.private_key_file is not None:
        named |= {
            "private_key_file": str(source.private_key_file),
            "authenticator": "SNOWFLAKE_JWT",
        }
    if source.private_key_file_pwd is not None:
        named["private_key_file_pwd"] = source.private_key_file_pwd.get_secret_value()
    return {name: value for name, value in named.items() if value is not None}
