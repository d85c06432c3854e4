"""Tables of databases as files, which every executor reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from sunloom.config.data import (
    BatchSource,
    DatasetSource,
    FilesSource,
    SnowflakeSource,
    SqlSource,
)
from sunloom.core.telemetry import get_logger

_log = get_logger("features.sources")


def fetch_sources(source: BatchSource, paths: Mapping[str, Path]) -> None:
    """Fetch the source's tables from its database; nothing to do where they are files.

    Args:
        source: The recipe's batch source.
        paths: Namespace to the folder that its rows are written to.

    Raises:
        DataError: The database cannot be reached or refuses.
        DependencyError: Its driver is not installed.
    """
    if isinstance(source, FilesSource | DatasetSource):
        return
    from sunloom.data.sources.fetch import fetch

    for name, table in source.tables.items():
        rows = fetch(_iter_batches(source, table), paths[name])
        _log.info("fetched %d rows of %s", rows, name)


def _iter_batches(source: SqlSource | SnowflakeSource, table: str) -> Iterator[pl.DataFrame]:
    # Each driver is imported on demand: a deployment installs those of its databases only.
    if isinstance(source, SqlSource):
        from sunloom.data.sources.sql import sql_batches

        return sql_batches(source.url.get_secret_value(), table, source.batch_rows)
    from sunloom.data.sources.snowflake import snowflake_batches

    options = _snowflake_options(source)
    return snowflake_batches(options, table, source.batch_rows)


def _snowflake_options(source: SnowflakeSource) -> Mapping[str, str]:
    options: dict[str, str | None] = {
        "account": source.account,
        "user": source.user,
        "role": source.role,
        "warehouse": source.warehouse,
        "database": source.database,
        "schema": source.schema_name,
    }
    if source.password is not None:
        options["password"] = source.password.get_secret_value()
    if source.private_key_file is not None:
        options |= {
            "private_key_file": str(source.private_key_file),
            "authenticator": "SNOWFLAKE_JWT",
        }
    if source.private_key_file_pwd is not None:
        options["private_key_file_pwd"] = source.private_key_file_pwd.get_secret_value()
    return {name: value for name, value in options.items() if value is not None}
