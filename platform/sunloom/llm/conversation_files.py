"""A team's own files as a source of conversations: read, checked, split, counted.

Rows that cannot be learned from are set aside with their reason and position, and the rest is
used. A conversation is held out by a hash of its content, so that it stays on its side of the split
when rows are added, when files are renamed, and in every run.

Large files are read in blocks by Ray Data's tasks, small ones in this process; what is checked goes
to a folder, and this process keeps a hash and a place for each conversation.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sunloom.config.llm import ConversationData, ConversationFile, LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.core.telemetry import progress_bar
from sunloom.data.quarantine import Damaged
from sunloom.data.sources.json_objects import read_json_lines
from sunloom.data.sources.table_files import (
    FileSplit,
    data_files,
    parquet_schema,
    read_file,
    split_file,
)
from sunloom.errors import DataError, UsageError
from sunloom.llm.conversation_formats import FORMATS, BadRowError, detect_format
from sunloom.llm.conversation_sources import SUFFIXES, locate_files, rows_of
from sunloom.llm.conversations import (
    TEXT,
    Conversation,
    ConversationSource,
    load_conversation_source,
)
from sunloom.llm.feedback_formats import FEEDBACK_FORMATS, read_row
from sunloom.llm.objectives import require_formats

_DETECTED_IN = 20
_SHOWN_CHARACTERS = 500
_HASH_RANGE = 2**64
# Some ten thousand conversations: a task's start is little beside them, its memory too.
_BLOCK_BYTES = 16 << 20
_PARQUET_ROWS = 20_000
# Less than this is read sooner than Ray starts its workers.
_IN_PROCESS_BYTES = 64 << 20
# From here on it takes seconds, and its progress is shown.
_SHOWN_BYTES = 8 << 20

Done = TypeVar("Done")
MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Results of a function for each part, in any order."""


def in_process(task: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Run a task for one part after another."""
    return map(task, parts)


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
        near_duplicates: Alike but for a few words to an earlier one to learn from.
        contaminated: To learn from, but with content that judges.
        quarantined: Reason to number of rows.
    """

    path: str
    format: str
    rows: int = 0
    train: int = 0
    held_out: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    contaminated: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """A part of a file that one task reads.

    Attributes:
        number: Over all files; conversations count in the order of the blocks.
        file: The file.
        format: Of its rows.
        checked: Where the conversations go.
        start: First byte of the part, of JSON lines.
        stop: Byte after the part; None is the file's end.
        first_line: Lines before the part.
        split: Row groups, of Parquet.
        rows: Positions in the file, from 0, that count; None is all.
    """

    number: int
    file: Path
    format: str
    checked: Path
    start: int = 0
    stop: int | None = None
    first_line: int = 0
    split: FileSplit | None = None
    rows: range | None = None


@dataclass(frozen=True)
class CheckedBlock:
    """What a task has found in a block.

    Attributes:
        number: The block's.
        rows: All of them.
        digests: First 128 bits of each conversation's SHA-256, as two numbers ``[N, 2]``.
        positions: Of each conversation in its file, from 1 ``[N]``.
        offsets: Of each conversation in the file of checked ones, and its size ``[N + 1]``.
        damaged: Rows that cannot be used.
        reasons: Their number by reason.
    """

    number: int
    rows: int
    digests: NDArray[np.uint64]
    positions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    damaged: list[Damaged]
    reasons: dict[str, int]


def check_block(block: Block) -> CheckedBlock:
    """Read a block's rows, check them, and write the conversations to a file of their own."""
    digests: list[bytes] = []
    positions: list[int] = []
    offsets = [0]
    damaged: list[Damaged] = []
    reasons: Counter[str] = Counter()
    rows = 0
    with block.checked.open("wb") as out:
        for position, row in _rows(block):
            if block.rows is not None and position - 1 not in block.rows:
                continue
            rows += 1
            try:
                if isinstance(row, Damaged):
                    raise BadRowError(*row.reason.split(": ", 1))
                conversation = read_row(row, block.format)
            except BadRowError as error:
                reasons[error.reason] += 1
                content = row.content if isinstance(row, Damaged) else _shorten(row)
                damaged.append(Damaged(str(block.file), position, str(error), content))
                continue
            digests.append(_digest(conversation))
            positions.append(position)
            # In the order of the row's own keys, which templates write down.
            plain = json.dumps(conversation.to_plain())
            offsets.append(offsets[-1] + out.write(plain.encode()))
    return CheckedBlock(
        number=block.number,
        rows=rows,
        digests=np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2),
        positions=np.asarray(positions, np.int64),
        offsets=np.asarray(offsets, np.int64),
        damaged=damaged,
        reasons=dict(reasons.most_common()),
    )


def load_checked(
    path: Path, offsets: NDArray[np.int64], rows: Iterable[int]
) -> Iterator[Conversation]:
    """Conversations that ``check_block`` has written.

    Args:
        path: Its file.
        offsets: Of all its conversations.
        rows: Which ones.
    """
    with path.open("rb") as file:
        for row in rows:
            begin, end = int(offsets[row]), int(offsets[row + 1])
            file.seek(begin)
            yield Conversation.from_plain(*json.loads(file.read(end - begin)))


class FileConversations:
    """A ``ConversationSource`` of files.

    Args:
        data: Names them.
        folder: Where checked conversations are kept while this object lives; the system's for
            temporary files by default. Workers of a cluster must see it.
        map_parts: Runs the blocks.

    Attributes:
        folder: Where the conversations are kept.
        counts: What became of each file's rows.
        damaged: Rows that cannot be used, in the order of the files.
        blocks: Parts of the files, in order.
        checked: What was found in each.
        learned: Numbers of the conversations to learn from, ascending ``[N]``.
        judging: Numbers of those that are held out, ascending ``[H]``.
        bases: Number of the first conversation of each block, and of all conversations.
        map_parts: Runs the blocks.
        is_large: Whether work on all conversations takes long enough to show its progress.

    Raises:
        UsageError: A file does not exist, is of no known kind, or no row of it is a conversation.
    """

    learned: NDArray[np.int64]
    judging: NDArray[np.int64]

    def __init__(
        self,
        data: ConversationData,
        folder: Path | None = None,
        map_parts: MapParts = in_process,
    ) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._checked = tempfile.TemporaryDirectory(prefix="conversations-", dir=folder)
        self.folder = Path(self._checked.name)
        self.map_parts = map_parts
        self.counts: list[FileCounts] = []
        self.damaged: list[Damaged] = []
        self.blocks: list[Block] = []
        weights: list[float] = []
        files: list[tuple[Path, str, int]] = []
        for entry in data.train:
            for file in data_files(entry.path, SUFFIXES):
                parts = self._cut(file, entry)
                weights += [entry.weight] * len(parts)
                files.append((file, parts[0].format if parts else entry.format, len(parts)))
                self.blocks += parts
        self.is_large = _size_of(data) > _SHOWN_BYTES
        done = map_parts(check_block, self.blocks)
        if self.is_large:
            done = _with_progress(done, len(self.blocks))
        found = {block.number: block for block in done}
        self.checked = [found[block.number] for block in self.blocks]
        self._choose(data.held_out_share, weights)
        self._count(files)

    def train(self, n: int, seed: int) -> list[Conversation]:
        """A pass over the data, each conversation as often as its file's weight says.

        Args:
            n: Ignored: a run goes over the same conversations until it has its steps.
            seed: Of the order, and of which ones a fraction of a weight takes.
        """
        del n
        return self.load(self.train_order(seed))

    def train_order(self, seed: int) -> list[int]:
        """Numbers of the conversations of a pass over the data, in its order.

        Args:
            seed: Of the order, and of which ones a fraction of a weight takes.
        """
        rng = random.Random(f"files-train-{seed}")
        numbers, weights = self.learned.tolist(), self._weights[self.learned].tolist()
        chosen: list[int] = []
        for number, weight in zip(numbers, weights, strict=True):
            chosen += [number] * (int(weight) + (rng.random() < weight % 1))
        rng.shuffle(chosen)
        return chosen

    def held_out(self, n: int, seed: int) -> list[Conversation]:
        """Up to ``n`` held-out conversations; another seed draws others first."""
        rng = random.Random(f"files-held-out-{seed}")
        keys = self._digests[self.judging, 0]
        ordered = self.judging[np.argsort(keys, kind="stable")].tolist()
        rng.shuffle(ordered)
        return self.load(ordered[:n])

    def load(self, numbers: Sequence[int]) -> list[Conversation]:
        """Conversations by their numbers, in that order."""
        found: dict[int, Conversation] = {}
        for which, rows in self.by_block(numbers):
            block, checked = self.blocks[which], self.checked[which]
            loaded = load_checked(block.checked, checked.offsets, rows)
            for row, conversation in zip(rows, loaded, strict=True):
                found[int(self.bases[which]) + row] = replace(
                    conversation, source=str(block.file), position=int(checked.positions[row])
                )
        return [found[number] for number in numbers]

    def by_block(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
        """Index of each block that has some of the conversations, and their rows in it, once."""
        unique = np.unique(np.fromiter(numbers, np.int64))
        which = np.searchsorted(self.bases, unique, side="right") - 1
        for index in np.unique(which).tolist():
            yield index, (unique[which == index] - self.bases[index]).tolist()

    def sum_by_file(self, numbers: NDArray[np.int64], values: NDArray[np.int32]) -> dict[str, int]:
        """Sum of values of conversations, by their file.

        Args:
            numbers: Of the conversations ``[N]``.
            values: One for each ``[N]``.
        """
        which = np.searchsorted(self.bases, numbers, side="right") - 1
        sums = np.bincount(which, weights=values, minlength=len(self.blocks))
        found: dict[str, int] = {}
        for block, total in zip(self.blocks, sums.tolist(), strict=True):
            found[str(block.file)] = found.get(str(block.file), 0) + int(total)
        return found

    def place_of(self, number: int) -> tuple[str, int]:
        """A conversation's file, and its position there from 1."""
        which = int(np.searchsorted(self.bases, number, side="right")) - 1
        row = number - int(self.bases[which])
        return str(self.blocks[which].file), int(self.checked[which].positions[row])

    def count_overlaps(
        self,
        near_duplicates: NDArray[np.int64],
        contaminated: NDArray[np.int64],
        dropped: NDArray[np.int64],
    ) -> None:
        """Count conversations that are like others, and learn from none of those that go.

        Args:
            near_duplicates: Their numbers, ascending ``[M]``.
            contaminated: Theirs, ascending ``[C]``.
            dropped: Some of both, ascending ``[D]``.
        """
        self.learned = np.setdiff1d(self.learned, dropped)
        parts = (near_duplicates, contaminated, dropped)
        for index, span in enumerate(self._spans):
            near, held, gone = (int(np.diff(np.searchsorted(part, span))[0]) for part in parts)
            file = self.counts[index]
            self.counts[index] = replace(
                file, train=file.train - gone, near_duplicates=near, contaminated=held
            )

    def digest_of(self, numbers: Sequence[int]) -> bytes:
        """Hash of the content of conversations, in that order."""
        return hashlib.sha256(self._digests[np.asarray(numbers, np.int64)].tobytes()).digest()

    def _cut(self, file: Path, entry: ConversationFile) -> list[Block]:
        """The file's blocks; none where it has no rows."""
        first = len(self.blocks)
        blocks: list[Block] = []
        for part in _parts_of(file):
            number = first + len(blocks)
            checked = self.folder / f"checked-{number:06d}.json"
            blocks.append(
                replace(
                    part,
                    number=number,
                    format=entry.format,
                    checked=checked,
                    rows=rows_of(entry),
                )
            )
        head = list(islice(_rows(blocks[0]), _DETECTED_IN)) if blocks else []
        if not head:
            return []
        format = entry.format if entry.format != "auto" else _format_of(file, head)
        return [replace(block, format=format) for block in blocks]

    def _choose(self, share: float, weights: Sequence[float]) -> None:
        """Number the conversations, leave out repeated ones, and divide the rest."""
        sizes = [len(block.digests) for block in self.checked]
        self.bases = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        parts = [block.digests for block in self.checked]
        self._digests = np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)
        self._weights = np.repeat(np.asarray(weights, np.float64), sizes)
        # The first of equal ones counts, in the order of files and rows.
        firsts = np.unique(self._digests, axis=0, return_index=True)[1]
        self._is_first = np.zeros(len(self._digests), np.bool_)
        self._is_first[firsts] = True
        # Compared as Python's numbers: a share times 2**64 has no exact float.
        limit = min(int(share * _HASH_RANGE), _HASH_RANGE - 1)
        below = self._digests[:, 0] < np.uint64(limit)
        self.learned = np.flatnonzero(self._is_first & ~below)
        self.judging = np.flatnonzero(self._is_first & below)

    def _count(self, files: Sequence[tuple[Path, str, int]]) -> None:
        start = 0
        self._spans: list[tuple[int, int]] = []
        is_held_out = np.zeros(len(self._digests), np.bool_)
        is_held_out[self.judging] = True
        for file, format, parts in files:
            checked = self.checked[start : start + parts]
            self._spans.append((int(self.bases[start]), int(self.bases[start + parts])))
            span = slice(*self._spans[-1])
            start += parts
            first, held_out = self._is_first[span], int(is_held_out[span].sum())
            reasons: Counter[str] = Counter()
            for block in checked:
                reasons.update(block.reasons)
                self.damaged += block.damaged
            self.counts.append(
                FileCounts(
                    path=str(file),
                    format=format,
                    rows=sum(block.rows for block in checked),
                    train=int(first.sum()) - held_out,
                    held_out=held_out,
                    duplicates=int((~first).sum()),
                    quarantined=dict(reasons.most_common()),
                )
            )


def open_conversations(recipe: LlmRecipe) -> ConversationSource:
    """The source that a recipe learns from: its files, else the plugin that it names.

    Large files are read on the cluster.

    Raises:
        UsageError: The objective does not learn from rows of a file's format.
    """
    if not recipe.data.train:
        return load_conversation_source(recipe.data.conversations)
    data = locate_files(recipe.data, lambda: open_registry(recipe), recipe.output.tenant)
    folder = recipe.paths.outputs / "llm" / "tmp"
    source = FileConversations(data, folder.absolute(), choose_map(recipe, _size_of(data)))
    formats = ((file.path, file.format) for file in source.counts)
    require_formats(formats, recipe.training.objective)
    return source


def choose_map(recipe: LlmRecipe, size_bytes: int) -> MapParts:
    """How blocks are run: by Ray Data where they are many, else here.

    Args:
        recipe: Names the cluster.
        size_bytes: Of all files.
    """
    if size_bytes <= _IN_PROCESS_BYTES:
        return in_process
    from sunloom.core.cluster import connect
    from sunloom.core.ray_tasks import map_parts

    connect(recipe)
    return map_parts


def _size_of(data: ConversationData) -> int:
    files = [file for entry in data.train for file in data_files(entry.path, SUFFIXES)]
    return sum(file.stat().st_size for file in files)


def _with_progress(results: Iterable[Done], parts: int) -> Iterator[Done]:
    with progress_bar("reading conversations", parts) as bar:
        for result in results:
            bar.advance(1)
            yield result


def hash_files(path: Path) -> str:
    """Hash of the content of a file of conversations, or of a folder of them.

    Raises:
        UsageError: There is none.
    """
    digest = hashlib.sha256()
    for file in data_files(path, SUFFIXES):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _digest(conversation: Conversation) -> bytes:
    whole = hashlib.sha256(conversation.canonical().encode()).digest()[:16]
    if conversation.feedback is None:
        return whole
    # The first half chooses the side: all completions of a prompt judge, or all are trained on.
    prompt = replace(conversation.head(conversation.feedback.prompt), feedback=None)
    return hashlib.sha256(prompt.canonical().encode()).digest()[:8] + whole[8:]


def _parts_of(file: Path) -> Iterator[Block]:
    """The file's parts, as blocks without a number; none where it is empty."""
    path = file.absolute()
    whole = Block(number=0, file=path, format="", checked=path)
    if file.suffix == ".parquet":
        # Raises what says so where the file is none.
        parquet_schema(file)
        for split in split_file(file, least_rows=_PARQUET_ROWS):
            yield replace(whole, split=split)
    elif file.suffix != ".jsonl":
        yield whole
    else:
        for start, stop, first_line in _line_ranges(file):
            yield replace(whole, start=start, stop=stop, first_line=first_line)


def _line_ranges(file: Path) -> Iterator[tuple[int, int, int]]:
    """First byte, byte after the last, and lines before, of runs of whole lines."""
    start = lines = first_line = 0
    with file.open("rb") as opened:
        while content := opened.read(_BLOCK_BYTES):
            end = content.rfind(b"\n") + 1
            # A line that is longer than a block goes on.
            rest = b"" if end == len(content) else opened.readline()
            lines += content.count(b"\n") + rest.count(b"\n")
            stop = opened.tell()
            yield start, stop, first_line
            start, first_line = stop, lines


def _rows(block: Block) -> Iterator[tuple[int, dict[str, Any] | Damaged]]:
    """Position from 1, and the row or why there is none."""
    file = block.file
    if file.suffix == ".jsonl":
        yield from read_json_lines(
            file, start=block.start, stop=block.stop, first_line=block.first_line
        )
    elif file.suffix == ".json":
        yield from _json_array(file)
    elif block.split is not None:
        rows = block.split.read_parquet(_names_of(file))
        for position, row in enumerate(rows.iter_rows(named=True), block.split.first_row + 1):
            yield position, _without_nulls(row)
    else:
        # CSV stays text: what looks like a number is an answer, too.
        table = read_file(file, as_text=True)
        positions: Sequence[int] = (
            range(1, table.rows.height + 1) if table.positions is None else list(table.positions)
        )
        for position, row in zip(positions, table.rows.iter_rows(named=True), strict=True):
            yield position, _without_nulls(row)
        yield from ((row.position, row) for row in table.damaged)


def _names_of(file: Path) -> list[str]:
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(file).names
    return names


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
        known = ", ".join([*FORMATS, TEXT, *FEEDBACK_FORMATS])
        raise UsageError(
            f"The format of {file} cannot be told: {reason}.",
            f"Set format at the file's entry in data.train: {known}.",
            "data.train",
        )
    return found.most_common(1)[0][0]


def _shorten(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)[:_SHOWN_CHARACTERS]
