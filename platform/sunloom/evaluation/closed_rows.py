"""Files of JSON lines whose rows have fixed fields, such as cases and verdicts of people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sunloom.errors import UsageError

T = TypeVar("T")


def read_rows(
    file: Path, adapter: TypeAdapter[T], *, noun: str, param: str
) -> Iterator[tuple[str, T]]:
    """Place, such as ``own.jsonl:17``, and value of each row; empty lines are none.

    Args:
        file: JSON lines.
        adapter: Of a row.
        noun: What a row is.
        param: Key of the recipe that names the file.

    Raises:
        UsageError: There is no such file, or a row is something else.
    """
    if not file.is_file():
        raise UsageError(f"There is no file {file}.", param=param)
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"{file}:{number}", adapter.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise UsageError(
                f"{file}:{number} is no {noun}: {where}{first['msg']}.", param=param
            ) from error
