"""Texts as runs of words: what near-duplicates and contamination are found by.

Case, punctuation and the width of characters count for nothing. Words are numbers of 64 bits, which
are the same in every process of one version of Polars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sunloom.llm.conversations import Conversation

# Chinese and Japanese have no blanks between words: there a character counts as one.
_NO_BLANKS = r"\u{3040}-\u{30ff}\u{3400}-\u{9fff}\u{f900}-\u{faff}"
_WORD = rf"[{_NO_BLANKS}]|[\w--[{_NO_BLANKS}]]+"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Words:
    """The words of texts.

    Attributes:
        hashes: One number a word, text after text ``[W]``.
        offsets: Of each text's first word, and their number ``[N + 1]``.
    """

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Words:
        """The words of some of the texts, in that order."""
        starts, sizes = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return Words(self.hashes[places], offsets)

    def save(self, path: Path) -> None:
        """Write them as two files that ``load_words`` maps into memory."""
        np.save(path.with_suffix(".words.npy"), self.hashes)
        np.save(path.with_suffix(".offsets.npy"), self.offsets)


def load_words(path: Path) -> Words:
    """The words that ``Words.save`` has written."""
    hashes = np.load(path.with_suffix(".words.npy"), mmap_mode="r")
    return Words(hashes, np.load(path.with_suffix(".offsets.npy")))


def join_words(parts: Sequence[Words]) -> Words:
    """The words of all texts of the parts, one part after the other."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Words(np.concatenate([part.hashes for part in parts]), offsets)


def split_words(texts: Sequence[str]) -> Words:
    """The words of texts."""
    plain = pl.Series(texts, dtype=pl.String).str.normalize("NFKC").str.to_lowercase()
    found = plain.str.extract_all(_WORD)
    sizes = found.list.len().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return Words(found.list.explode(empty_as_null=False).hash(seed=0).to_numpy(), offsets)


def compared_text(conversation: Conversation) -> str:
    """What a conversation is compared by: all but system messages and tools, which many share."""
    parts: list[str] = []
    for message in conversation.messages:
        if message["role"] == "system":
            continue
        parts.append(message.get("content") or "")
        for call in message.get("tool_calls", ()):
            parts += [call["function"]["name"], call["function"]["arguments"]]
    return "\n".join(parts)


def hash_ngrams(words: Words, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Every run of ``n`` words; a shorter text has none.

    Returns:
        A number a run ``[G]``, and the row of its text, ascending ``[G]``.
    """
    sizes = np.maximum(np.diff(words.offsets) - n + 1, 0)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.cumsum(sizes)
    firsts = np.arange(len(rows)) + np.repeat(words.offsets[:-1] - ends + sizes, sizes)
    count = max(len(words.hashes) - n + 1, 0)
    # Runs of different lengths are different.
    every = np.full(count, n, np.uint64)
    for place in range(n):
        every *= _FACTOR
        every += words.hashes[place : place + count]
    # Without those that go on into the next text.
    hashes = every[firsts]
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> _HALF
    return hashes, rows


def hash_shingles(words: Words, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Every run of ``n`` words, or the whole of a text that has fewer words.

    Returns:
        A number a run ``[G]``, and the row of its text, ascending ``[G]``.
    """
    sizes = np.minimum(np.diff(words.offsets), n)
    hashes, rows = hash_ngrams(words, n)
    for size in range(1, n):
        if (short := np.flatnonzero(sizes == size)).size:
            whole, _ = hash_ngrams(words.take(short), size)
            hashes, rows = np.concatenate([hashes, whole]), np.concatenate([rows, short])
    order = np.argsort(rows, kind="stable")
    return hashes[order], rows[order]
