"""Records of a CSV file that cannot be read as a whole: those that can, and the others by line."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sunloom.data.quarantine import Damaged
from sunloom.data.sources.json_objects import is_unicode


@dataclass(frozen=True)
class CsvRecords:
    """A CSV file without the records that nobody can read.

    Attributes:
        content: Header and good records, as the file has them.
        positions: Line in which each good record begins, from 1.
        damaged: The other records.
    """

    content: bytes
    positions: pl.Series
    damaged: tuple[Damaged, ...]


def split_csv(path: Path, separator: str) -> CsvRecords:
    """The file's records; good ones are UTF-8 with as many fields as the header, or fewer."""
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    texts = [line.decode(errors="surrogateescape") + "\n" for line in lines]
    good: list[bytes] = []
    positions: list[int] = []
    damaged: list[Damaged] = []
    width: int | None = None
    at = 0
    while at < len(lines):
        # A reader a record: what a quotation mark without its end swallows is read again.
        rest = map(texts.__getitem__, range(at, len(texts)))
        reader = csv.reader(rest, delimiter=separator, strict=True)
        reason = None
        try:
            fields, stop = next(reader), at + reader.line_num
        except csv.Error as error:
            fields, stop, reason = [], at + 1, f"not CSV: {error}"
        if reason is None and width is not None and len(fields) > width:
            reason = f"{len(fields)} fields, but the header has {width}"
        if reason is None and not all(map(is_unicode, fields)):
            reason = "not UTF-8"
        content = b"\n".join(lines[at:stop])
        if reason is not None and width is None:
            # Without a header there is no table: the file is refused.
            return CsvRecords(b"", pl.Series(dtype=pl.Int64), ())
        if reason is not None:
            text = content.decode(errors="backslashreplace").rstrip()[:500]
            damaged.append(Damaged(str(path), at + 1, reason, text))
        else:
            good.append(content)
            if width is None:
                width = len(fields) or None
            elif fields:
                positions.append(at + 1)
        at = stop
    rows = pl.Series(positions, dtype=pl.Int64)
    return CsvRecords(b"\n".join(good), rows, tuple(damaged))
