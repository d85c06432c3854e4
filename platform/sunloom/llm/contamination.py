"""Contamination: texts to learn from that hold what a model will be judged by.

As decontamination of instruction data does it: a text is contaminated where it alone holds a share
of the runs of n words of a text that judges. Runs that many judging texts have are their template
and count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sunloom.llm.word_ngrams import Words, hash_ngrams

# Shorter runs are common speech (GPT-3's own lower bound, appendix C).
_LEAST_WORDS = 8
# As GPT-3: what more texts have is a phrase, not a leak.
_MOST_TEXTS = 10
_SHIFT = 40


@dataclass(frozen=True)
class NgramIndex:
    """The runs of words of the texts that judge, in an order to search them.

    Attributes:
        hashes: Each run of each text, ascending ``[G]``.
        texts: The text of each ``[G]``.
        totals: Different runs of each text ``[E]``.
        sizes: Words of a run: ``n``, and the words of texts that have fewer.
    """

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]
    totals: NDArray[np.int64]
    sizes: tuple[int, ...]

    def save(self, path: Path) -> None:
        """Write it as a file that ``load_index`` reads."""
        with path.open("wb") as file:
            np.savez(
                file, hashes=self.hashes, texts=self.texts, totals=self.totals, sizes=self.sizes
            )


def load_index(path: Path) -> NgramIndex:
    """The index that ``NgramIndex.save`` has written."""
    with np.load(path) as stored:
        return NgramIndex(
            stored["hashes"], stored["texts"], stored["totals"], tuple(stored["sizes"].tolist())
        )


@dataclass(frozen=True)
class Contamination:
    """Texts to learn from that hold a judging text, each once.

    Attributes:
        rows: The texts ``[M]``.
        texts: The judging text of which each holds most ``[M]``.
        shares: Of that text's runs ``[M]``.
    """

    rows: NDArray[np.int64]
    texts: NDArray[np.int64]
    shares: NDArray[np.float64]


def build_index(words: Words, n: int) -> NgramIndex:
    """Index the texts that judge.

    Args:
        words: Of the texts; one of less than eight is too short to tell.
        n: Words of a run; a shorter text is one run.
    """
    least = min(_LEAST_WORDS, n)
    sizes = np.minimum(np.diff(words.offsets), n)
    used = [int(size) for size in np.unique(sizes) if size >= least]
    found = []
    for size in used:
        chosen = np.flatnonzero(sizes == size)
        hashes, rows = hash_ngrams(words.take(chosen), size)
        found.append((hashes, chosen[rows]))
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part for part, _ in found)])
    texts = np.concatenate([np.zeros(0, np.int64), *(part for _, part in found)])
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
    hashes, texts = hashes[is_new], texts[is_new]
    first, end = (np.searchsorted(hashes, hashes, side=side) for side in ("left", "right"))
    is_own = end - first <= _MOST_TEXTS
    hashes, texts = hashes[is_own], texts[is_own]
    return NgramIndex(hashes, texts, np.bincount(texts, minlength=len(sizes)), tuple(used))


def find_contamination(words: Words, index: NgramIndex, threshold: float) -> Contamination:
    """Texts that hold at least a share of the runs of a judging text.

    Args:
        words: Of the texts to learn from.
        index: Of the texts that judge.
        threshold: Least share.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    # Most runs are none of the index: a look at some bits is cheaper than a search.
    is_known = np.zeros(1 << (64 - _SHIFT), np.bool_)
    is_known[index.hashes >> np.uint64(_SHIFT)] = True
    for size in index.sizes:
        hashes, rows = hash_ngrams(words, size)
        likely = np.flatnonzero(is_known[hashes >> np.uint64(_SHIFT)])
        hashes, rows = hashes[likely], rows[likely]
        places = np.searchsorted(index.hashes, hashes)
        # After the last there is none; what is likely is in the index, or shares its bits.
        places = np.minimum(places, len(index.hashes) - 1)
        hits = np.flatnonzero(index.hashes[places] == hashes)
        # A run counts once in a text, however often it stands there.
        hits = np.unique(np.stack([rows[hits], places[hits]], axis=1), axis=0)
        ends = np.searchsorted(index.hashes, index.hashes[hits[:, 1]], side="right")
        counts = ends - hits[:, 1]
        firsts = np.repeat(ends - np.cumsum(counts), counts)
        texts = index.texts[firsts + np.arange(int(counts.sum()))]
        pairs.append(np.stack([np.repeat(hits[:, 0], counts), texts], axis=1))
    found, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    shares = counts / index.totals[found[:, 1]]
    # The largest share of each row first, and of equal ones the first text's.
    order = np.lexsort((found[:, 1], -shares, found[:, 0]))
    order = order[shares[order] >= threshold]
    firsts = order[np.unique(found[order, 0], return_index=True)[1]]
    return Contamination(found[firsts, 0], found[firsts, 1], shares[firsts])
