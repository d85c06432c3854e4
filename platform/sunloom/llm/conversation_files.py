"""A team's own files as a source of conversations: read, checked, split, counted.

Rows that cannot be learned from are set aside with their reason and position, and the rest is
used. A conversation is held out by a hash of its content, so that it stays on its side of the split
when rows are added, when files are renamed, and in every run.
"""

from __future__ import annotations

import hashlib
import json
import random
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sunloom.config.llm import ConversationData, ConversationFile
from sunloom.data.quarantine import Damaged
from sunloom.data.sources.json_objects import read_json_lines
from sunloom.data.sources.table_files import data_files, read_file
from sunloom.errors import DataError, UsageError
from sunloom.llm.conversation_formats import FORMATS, BadRowError, detect_format, read_conversation
from sunloom.llm.conversations import Conversation, ConversationSource, load_conversation_source

_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_DETECTED_IN = 20
_SHOWN_CHARACTERS = 500
_HASH_RANGE = 2**64


@dataclass(frozen=True)
class FileCounts:
    """What became of one file's rows.

    Attributes:
        path: The file.
        format: Named by the recipe, or found from the first rows.
        rows: All of them.
        train: Conversations to learn from, each once.
        held_out: Conversations that judge.
        duplicates: Same content as an earlier row of any file; used once.
        quarantined: Reason to number of rows.
    """

    path: str
    format: str
    rows: int = 0
    train: int = 0
    held_out: int = 0
    duplicates: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


@dataclass
class _Part:
    """Conversations of the files of one entry, with the hash of each."""

    weight: float
    train: list[tuple[int, Conversation]] = field(default_factory=list)


class FileConversations:
    """A ``ConversationSource`` of files.

    Args:
        data: Names them.

    Raises:
        UsageError: A file does not exist, is of no known kind, or no row of it is a conversation.
    """

    def __init__(self, data: ConversationData) -> None:
        self._parts: list[_Part] = []
        self._held_out: list[tuple[int, Conversation]] = []
        self._hashes: set[int] = set()
        self.counts: list[FileCounts] = []
        self.damaged: list[Damaged] = []
        for entry in data.train:
            part = _Part(entry.weight)
            for file in data_files(entry.path, _SUFFIXES):
                self._read(file, entry, part, data.held_out_share)
            self._parts.append(part)

    def train(self, n: int, seed: int) -> list[Conversation]:
        """A pass over the data, each conversation as often as its file's weight says.

        Args:
            n: Ignored: a run goes over the same conversations until it has its steps.
            seed: Of the order, and of which ones a fraction of a weight takes.
        """
        del n
        rng = random.Random(f"files-train-{seed}")
        chosen: list[Conversation] = []
        for part in self._parts:
            for _, conversation in part.train:
                copies = int(part.weight) + (rng.random() < part.weight % 1)
                chosen += [conversation] * copies
        rng.shuffle(chosen)
        return chosen

    def held_out(self, n: int, seed: int) -> list[Conversation]:
        """Up to ``n`` held-out conversations; another seed draws others first."""
        rng = random.Random(f"files-held-out-{seed}")
        ordered = sorted(self._held_out, key=lambda pair: pair[0])
        rng.shuffle(ordered)
        return [conversation for _, conversation in ordered[:n]]

    def _read(self, file: Path, entry: ConversationFile, part: _Part, share: float) -> None:
        rows = list(_rows(file))
        if not rows:
            self.counts.append(FileCounts(str(file), entry.format))
            return
        format = entry.format if entry.format != "auto" else _format_of(file, rows)
        reasons: Counter[str] = Counter()
        train = held_out = duplicates = 0
        for position, row in rows:
            try:
                if isinstance(row, Damaged):
                    raise BadRowError(*row.reason.split(": ", 1))
                conversation = read_conversation(row, format)
            except BadRowError as error:
                reasons[error.reason] += 1
                content = row.content if isinstance(row, Damaged) else _shorten(row)
                self.damaged.append(Damaged(str(file), position, str(error), content))
                continue
            conversation = replace(conversation, source=str(file), position=position)
            number = content_hash(conversation)
            if number in self._hashes:
                duplicates += 1
                continue
            self._hashes.add(number)
            if number < share * _HASH_RANGE:
                self._held_out.append((number, conversation))
                held_out += 1
            else:
                part.train.append((number, conversation))
                train += 1
        self.counts.append(
            FileCounts(
                path=str(file),
                format=format,
                rows=len(rows),
                train=train,
                held_out=held_out,
                duplicates=duplicates,
                quarantined=dict(reasons.most_common()),
            )
        )


def open_conversations(data: ConversationData) -> ConversationSource:
    """The source that a recipe learns from: its files, else the plugin that it names."""
    return FileConversations(data) if data.train else load_conversation_source(data.conversations)


def content_hash(conversation: Conversation) -> int:
    """The first 64 bits of the SHA-256 of its canonical text."""
    digest = hashlib.sha256(conversation.canonical().encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | Damaged]]:
    """Position from 1, and the row or why there is none."""
    if file.suffix == ".jsonl":
        yield from read_json_lines(file)
    elif file.suffix == ".json":
        yield from _json_array(file)
    else:
        # CSV stays text: what looks like a number is an answer, too.
        table = read_file(file, as_text=True)
        positions: Sequence[int] = (
            range(1, table.rows.height + 1) if table.positions is None else list(table.positions)
        )
        for position, row in zip(positions, table.rows.iter_rows(named=True), strict=True):
            yield position, _without_nulls(row)
        yield from ((row.position, row) for row in table.damaged)


def _json_array(file: Path) -> Iterator[tuple[int, dict[str, Any] | Damaged]]:
    content = file.read_bytes().removeprefix(BOM_UTF8)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        # Many files named .json hold JSON lines.
        if content.lstrip().startswith(b"{"):
            yield from read_json_lines(file)
            return
        raise DataError(f"{file} is not JSON: {error}") from error
    rows = rows if isinstance(rows, list) else [rows]
    for position, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield position, row
        else:
            reason = f"not a JSON object: a {type(row).__name__}"
            yield position, Damaged(str(file), position, reason, _shorten(row))


def _without_nulls(value: Any) -> Any:
    """Parquet gives every message the keys of all messages."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _format_of(file: Path, rows: Sequence[tuple[int, dict[str, Any] | Damaged]]) -> str:
    """The format that most of the first rows have."""
    found: Counter[str] = Counter()
    reason = "no row can be read"
    readable = [row for _, row in rows if not isinstance(row, Damaged)]
    for row in readable[:_DETECTED_IN]:
        try:
            found[detect_format(row)] += 1
        except BadRowError as error:
            reason = str(error)
    if not found:
        raise UsageError(
            f"The format of {file} cannot be told: {reason}.",
            f"Set format to one of {', '.join(FORMATS)} at the file's entry in data.train.",
            "data.train",
        )
    return found.most_common(1)[0][0]


def _shorten(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)[:_SHOWN_CHARACTERS]
