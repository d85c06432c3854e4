"""JSON objects from lines and messages: the parsed fields, or the reason why there are none."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sunloom.data.quarantine import Damaged

# Deeper values are no table's: Polars takes minutes to find the type of 900 nested lists.
MOST_LEVELS = 100
"""How deep lists and objects may be nested."""


def parse_json_object(content: bytes, columns: Collection[str] | None = None) -> dict[str, Any]:
    """The object's fields.

    Args:
        content: JSON; a byte order mark before it is skipped.
        columns: Fields to keep, all by default; whatever stands in the others is no reason to
            refuse the object.

    Raises:
        ValueError: Its text is the reason: no JSON, no object, or a field that no column can hold.
    """
    try:
        # A byte that is not UTF-8 becomes half a surrogate, which only matters in a kept field.
        text = content.decode(json.detect_encoding(content), "surrogateescape")
        row = json.loads(text)
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object: a {type(row).__name__}")
    if columns is not None:
        row = {name: row[name] for name in columns if name in row}
    # Nearly all rows have neither escapes nor bad bytes, and are not walked value by value.
    has_escapes = "\\u" in text or not is_unicode(text)
    for name, value in row.items():
        if isinstance(value, list | dict) and is_deep(value):
            raise ValueError(f"{name!r} is nested more than {MOST_LEVELS} levels deep")
        if has_escapes and not is_unicode(name + json.dumps(value, ensure_ascii=False)):
            raise ValueError(f"{name!a} is no Unicode text: half a surrogate or a bad byte")
    return row


def read_json_lines(
    path: Path,
    columns: Collection[str] | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    first_line: int = 0,
) -> Iterator[tuple[int, dict[str, Any] | Damaged]]:
    """Each line's number, from 1, and its object, or why there is none; empty lines are left out.

    Args:
        path: JSON lines. One that is not UTF-8 damages its own line, not the file.
        columns: Fields to keep, all by default.
        start: First byte of a part of the file, where a line begins.
        stop: Byte after the part, where another line begins; the file's end by default.
        first_line: Lines before the part.
    """
    read = start
    with path.open("rb") as lines:
        lines.seek(start)
        for position, line in enumerate(lines, first_line + 1):
            if stop is not None and read >= stop:
                return
            read += len(line)
            # A file may begin with a byte order mark, and so may each part of a concatenated one.
            content = line.removeprefix(BOM_UTF8).strip()
            if not content:
                continue
            try:
                yield position, parse_json_object(content, columns)
            except ValueError as error:
                text = content.decode(errors="backslashreplace")[:500]
                yield position, Damaged(str(path), position, str(error), text)


def is_unicode(text: str) -> bool:
    """Whether the text can be stored: Python's may have halves of surrogates, UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_deep(value: list[Any] | dict[str, Any]) -> bool:
    """Whether lists and objects are nested more than 100 levels deep."""
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        items = (v.values() if isinstance(v, dict) else v for v in level)
        level = [i for parts in items for i in parts if isinstance(i, list | dict)]
        if not level:
            return False
    return True
