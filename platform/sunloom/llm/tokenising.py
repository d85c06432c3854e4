"""Conversations as tokens on disk, ready to be trained on: tokenised block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sunloom.core.telemetry import progress_bar
from sunloom.llm.conversation_files import FileConversations, load_checked
from sunloom.llm.conversations import Conversation
from sunloom.llm.encoding import encode_checked
from sunloom.llm.token_store import TokenRows, shard_path, write_order, write_shard, write_tokens


@dataclass(frozen=True)
class TokenisedBlock:
    """What became of a block's conversations.

    Attributes:
        number: The block's.
        kept: Row of the conversation that each stored row is of, ascending ``[N]``.
        trained: Tokens with loss of each stored row ``[N]``.
        rejected: Row of each conversation without anything to learn, and why.
        cut: Stored rows that lost their end to ``data.max_length``.
    """

    number: int
    kept: NDArray[np.int64]
    trained: NDArray[np.int64]
    rejected: dict[int, str]
    cut: int


@dataclass(frozen=True)
class TokeniseTask:
    """One block to tokenise.

    Attributes:
        number: The block's.
        checked: File of its conversations.
        offsets: Of each conversation in that file.
        rows: Those that are learned from.
        tokenizer: The model's.
        max_length: Longest row, tokens.
        shard: Where the tokens go.
    """

    number: int
    checked: Path
    offsets: NDArray[np.int64]
    rows: list[int]
    tokenizer: Any
    max_length: int
    shard: Path


@dataclass(frozen=True)
class Tokenised:
    """The conversations of a run as tokens.

    Attributes:
        rows: In the order of training.
        trained: Tokens with loss of each of them ``[N]``.
        cut: Rows that lost their end to ``data.max_length``.
        numbers: Of the conversation of each row ``[N]``.
        rejected: Number of each conversation without anything to learn, and why.
        tokens_by_file: Tokens of a pass, by the file that they come from; empty for a plugin.
    """

    rows: TokenRows
    trained: NDArray[np.int64]
    cut: int
    numbers: NDArray[np.int64]
    rejected: dict[int, str]
    tokens_by_file: dict[str, int] = field(default_factory=dict)


class TrainingConversations(ABC):
    """What a run learns from, in its order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, n: int) -> list[Conversation]:
        """The first ``n``."""

    @abstractmethod
    def load(self, number: int) -> Conversation:
        """One of them, by its number in ``Tokenised``."""

    def load_all(self, numbers: Sequence[int]) -> list[Conversation]:
        """Several of them, by their numbers in ``Tokenised``."""
        return [self.load(number) for number in numbers]

    @abstractmethod
    def digest_parts(self) -> Iterator[bytes]:
        """What tells them from others, order and copies included."""

    @abstractmethod
    def tokenise(self, tokenizer: Any, max_length: int, folder: Path) -> Tokenised:
        """Write them as tokens.

        Args:
            tokenizer: A fast tokenizer with a chat template.
            max_length: Longest row in tokens; the rest of a longer one is cut off.
            folder: Where the shards go.
        """


class ListedConversations(TrainingConversations):
    """Conversations in memory: those of a plugin.

    Args:
        conversations: In the order of training.
    """

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self._conversations = conversations

    def __len__(self) -> int:
        return len(self._conversations)

    def sample(self, n: int) -> list[Conversation]:
        """The first ``n``."""
        return list(self._conversations[:n])

    def load(self, number: int) -> Conversation:
        """One of them, by its index."""
        return self._conversations[number]

    def digest_parts(self) -> Iterator[bytes]:
        """Their texts."""
        return (conversation.canonical().encode() for conversation in self._conversations)

    def tokenise(self, tokenizer: Any, max_length: int, folder: Path) -> Tokenised:
        """Write them as one shard."""
        encoded = encode_checked(tokenizer, self._conversations, max_length)
        write_tokens(encoded.rows, folder)
        trained = [int(row.mask[1:].sum()) for row in encoded.rows]
        return Tokenised(
            rows=TokenRows(folder),
            trained=np.asarray(trained, np.int64),
            cut=encoded.cut,
            numbers=np.asarray(encoded.kept, np.int64),
            rejected=encoded.rejected,
        )


class FiledConversations(TrainingConversations):
    """Conversations of files: one at a time in memory.

    Args:
        source: The files.
        seed: Of the order, and of which ones a fraction of a weight takes.
    """

    def __init__(self, source: FileConversations, seed: int) -> None:
        self._source = source
        self._order = source.train_order(seed)

    def __len__(self) -> int:
        return len(self._order)

    def sample(self, n: int) -> list[Conversation]:
        """The first ``n``."""
        return self._source.load(self._order[:n])

    def load(self, number: int) -> Conversation:
        """One of them, by its number in the files."""
        return self._source.load([number])[0]

    @override
    def load_all(self, numbers: Sequence[int]) -> list[Conversation]:
        return self._source.load(numbers)

    def digest_parts(self) -> Iterator[bytes]:
        """The hashes of their contents."""
        yield self._source.digest_of(self._order)

    def tokenise(self, tokenizer: Any, max_length: int, folder: Path) -> Tokenised:
        """Write a shard for each block; each conversation once, whatever its weight."""
        source = self._source
        tasks = [
            TokeniseTask(
                number=index,
                checked=source.blocks[index].checked,
                offsets=source.checked[index].offsets,
                rows=rows,
                tokenizer=tokenizer,
                max_length=max_length,
                shard=shard_path(folder, index),
            )
            for index, rows in source.by_block(self._order)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[int, TokenisedBlock] = {}
        with progress_bar("tokenising conversations", len(tasks)) as bar:
            for block in source.map_parts(tokenise_block, tasks):
                found[block.number] = block
                if source.is_large:
                    bar.advance(1)
        done = [found[task.number] for task in tasks]
        bases = source.bases
        # Conversation of each stored row, ascending: as blocks are, and rows within them.
        stored = _join([block.kept + bases[block.number] for block in done])
        order = _expand(stored, np.asarray(self._order, np.int64))
        write_order(order, folder)
        rows = TokenRows(folder)
        return Tokenised(
            rows=rows,
            trained=_join([block.trained for block in done])[order],
            cut=sum(block.cut for block in done),
            numbers=stored[order],
            rejected={
                int(bases[block.number]) + row: reason
                for block in done
                for row, reason in block.rejected.items()
            },
            tokens_by_file=source.sum_by_file(stored[order], rows.lengths),
        )


def tokenise_block(task: TokeniseTask) -> TokenisedBlock:
    """Tokenise a block's conversations and write them as a shard."""
    conversations = list(load_checked(task.checked, task.offsets, task.rows))
    encoded = encode_checked(task.tokenizer, conversations, task.max_length)
    write_shard(encoded.rows, task.shard)
    rows = np.asarray(task.rows, np.int64)
    return TokenisedBlock(
        number=task.number,
        kept=rows[np.asarray(encoded.kept, np.int64)],
        trained=np.asarray([int(row.mask[1:].sum()) for row in encoded.rows], np.int64),
        rejected={task.rows[index]: reason for index, reason in encoded.rejected.items()},
        cut=encoded.cut,
    )


def _join(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _expand(stored: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the stored rows of conversations in their order.

    Args:
        stored: Conversation of each stored row, ascending.
        order: Conversations; one has no stored row, one, or several.
    """
    first, end = (np.searchsorted(stored, order, side=side) for side in ("left", "right"))
    counts = end - first
    starts = np.cumsum(counts) - counts
    rows: NDArray[np.int64] = np.repeat(first - starts, counts) + np.arange(int(counts.sum()))
    return rows
