"""Output of commands: tables for people, one JSON document on standard output for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_json_stream: TextIO | None = None


def claim_stdout() -> None:
    """Keep standard output for the JSON document; what libraries print goes to standard error."""
    global _json_stream
    # On the level of file descriptors: Ray's processes and C libraries write there directly.
    _json_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def print_json(result: Any) -> None:
    """Print one JSON document."""
    stream = _json_stream or sys.stdout
    stream.write(json.dumps(to_plain(result), indent=2, ensure_ascii=False) + "\n")
    stream.flush()


def to_plain(value: Any) -> Any:
    """``value`` as data that JSON can hold."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        # JSON has no NaN; a missing figure is null.
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None
) -> None:
    """Print rows as a table; nothing in a cell is read as markup."""
    if title:
        print_line(title)
    table = Table(header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(format_cell(cell)) for cell in row))
    console().print(table)


def print_mapping(values: Mapping[str, Any], title: str | None = None) -> None:
    """Print names and values as a two-column table."""
    print_table(("", ""), values.items(), title)


def print_result(
    result: Any, json: bool, *, line: str | None = None, title: str | None = None
) -> None:
    """Print a result as one JSON document, as one line, or as a two-column table.

    Args:
        result: A mapping or a dataclass.
        json: Whether to print one JSON document.
        line: What people read instead of a table.
        title: Stands above the table.
    """
    if json:
        print_json(result)
    elif line is not None:
        print_line(line)
    else:
        is_record = is_dataclass(result) and not isinstance(result, type)
        print_mapping(asdict(result) if is_record else result, title)


def print_line(text: str) -> None:
    """Print one line as it is."""
    # A pipe is block-buffered: whoever follows a log through one would see its lines late.
    print(text, flush=True)


def print_note(text: str) -> None:
    """Print one line to standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(message: str, hint: str = "") -> None:
    """Print what went wrong and what to do, without a traceback."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(Text("error: ", style="bold red") + Text(message))
    if hint:
        err.print(Text(f"  {hint}"))


def format_cell(value: Any) -> str:
    """One cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(to_plain(value), ensure_ascii=False)
    return str(value)


def console() -> Console:
    """A console on standard output; wide where it is a file, so no value is cut."""
    width = None if sys.stdout.isatty() else 160
    return Console(highlight=False, width=width)
