"""Tables of databases as files, which every executor reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
from pydantic import SecretStr

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

    return snowflake_batches(_snowflake_options(source), table, source.batch_rows)


def _snowflake_options(source: SnowflakeSource) -> Mapping[str, str]:
    """The driver's options as text, without those that are not set."""
    names = ["account", "user", "role", "warehouse", "database", "password"]
    names += ["private_key_file", "private_key_file_pwd"]
    options = {name: getattr(source, name) for name in names} | {"schema": source.schema_name}
    if source.private_key_file is not None:
        options["authenticator"] = "SNOWFLAKE_JWT"
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in options.items()
        if value is not None
    }
