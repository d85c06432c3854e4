"""Copies of database tables as folders of Parquet files, which every executor reads."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import polars as pl

from sunloom.data.sources.snowflake import snowflake_batches
from sunloom.data.sources.sql import sql_batches
from sunloom.errors import UsageError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def fetch(batches: Iterable[pl.DataFrame], folder: Path) -> int:
    """Write each batch as a file of the folder; an earlier folder is replaced once all are written.

    Returns:
        Number of rows.
    """
    # A name of its own, because two runs may fetch the same table at the same time.
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    rows = 0
    try:
        for number, batch in enumerate(batches):
            batch.write_parquet(partial / f"part-{number:05d}.parquet")
            rows += batch.height
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        # Renamed after a success: then there is nothing to remove, and no error to raise.
        shutil.rmtree(partial, ignore_errors=True)
    return rows


def is_address(text: str) -> bool:
    """Whether this is the address of a database rather than a file."""
    return re.match(r"[A-Za-z][\w+.-]*://", text) is not None


def fetch_address(address: str, folder: Path) -> int:
    """Fetch the table or query of an address, such as ``postgresql://user:${PASSWORD}@host/db?table=orders``.

    ``${NAME}`` stands for an environment variable, so that no secret need be written on a
    command line. ``snowflake://user@account/database/schema`` takes
    warehouse, role and the like as options.

    Raises:
        UsageError: It names no table and no query, or a variable that is not set.
        DataError: The database cannot be reached or refuses.
    """
    address = _expand_variables(address)
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    selections = [options.pop(name) for name in ("table", "query") if name in options]
    if len(selections) != 1:
        raise UsageError(
            f"The source {parts.scheme}://… names no table and no query, or both.",
            "End it with ?table=NAME or ?query=SELECT…",
            "source",
        )
    if parts.scheme == "snowflake":
        account = _snowflake_options(parts.netloc, parts.path, options)
        return fetch(snowflake_batches(account, selections[0]), folder)
    bare = address.partition("?")[0] + (f"?{urlencode(options)}" if options else "")
    return fetch(sql_batches(bare, selections[0]), folder)


def _snowflake_options(netloc: str, path: str, options: dict[str, str]) -> dict[str, str]:
    login, _, account = netloc.rpartition("@")
    user, _, password = login.partition(":")
    database, _, schema = path.strip("/").partition("/")
    named = {"account": account, "user": user, "password": password}
    named |= {"database": database, "schema": schema}
    return {name: unquote(text) for name, text in named.items() if text} | options


def _expand_variables(address: str) -> str:
    def value(match: re.Match[str]) -> str:
        text = os.environ.get(match[1])
        if text is None:
            raise UsageError(
                f"The source names the variable {match[1]!r}, which is not set.",
                f"export {match[1]}=…",
                "source",
            )
        # The value becomes part of a URL: an @ or a / in a password must not end it.
        return quote(text, safe="")

    return _VARIABLE.sub(value, address)
