"""Tables and queries of Snowflake through its own connector, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import polars as pl

from sunloom.data.sources.driver_rows import BATCH_ROWS, frame_of, is_query
from sunloom.errors import DataError, DependencyError

_SECRETS = ("password", "private_key_file_pwd", "token")


def snowflake_batches(
    options: Mapping[str, Any], selection: str, batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """Rows of a table or query as frames, one at least.

    Names in capitals, to which Snowflake folds unquoted ones, become lower case.

    Args:
        options: Arguments of ``snowflake.connector.connect``: account, user, password, …
        selection: A table (``ORDERS``, ``SCHEMA.ORDERS``, ``DB.SCHEMA.ORDERS``), or a ``SELECT``.
        batch_rows: The most rows of one frame.

    Raises:
        DependencyError: The connector is not installed.
        DataError: Snowflake cannot be reached or refuses; no message holds a secret.
    """
    try:
        import snowflake.connector as connector
    except ImportError as error:
        raise DependencyError(
            "A Snowflake source needs its connector.", "pip install 'sunloom[snowflake]'"
        ) from error
    query = selection if is_query(selection) else f"SELECT * FROM {_quote_table(selection)}"
    try:
        # Timestamps without a zone would be given in the zone of the account.
        parameters = {"TIMEZONE": "UTC"}
        with (
            closing(connector.connect(**options, session_parameters=parameters)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(query)
            names = [_unfold(column.name) for column in cursor.description]
            # The first frame comes without rows, too: it has the table's columns.
            yield frame_of(names, rows := cursor.fetchmany(batch_rows))
            while rows and (rows := cursor.fetchmany(batch_rows)):
                yield frame_of(names, rows)
    except connector.errors.Error as error:
        # The driver repeats its arguments in some messages.
        text = " ".join(str(error.msg or error).split())
        for name in _SECRETS:
            if options.get(name):
                text = text.replace(str(options[name]), "***")
        raise DataError(
            f"Snowflake account {options.get('account')!r}: {text}",
            "Check account, warehouse, role, rights and the query.",
        ) from None


def _quote_table(table: str) -> str:
    """The table with each part in quotes that is no identifier; the others fold as usual."""
    return ".".join(part if part.isidentifier() else _quote(part) for part in table.split("."))


def _quote(part: str) -> str:
    inner = part.removeprefix('"').removesuffix('"')
    return '"' + inner.replace('"', '""') + '"'


def _unfold(name: str) -> str:
    return name.lower() if name == name.upper() else name
