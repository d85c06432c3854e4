"""Near-duplicates: texts that share most of their runs of three words.

MinHash with bands finds the pairs that may be alike, and what they share is then counted. A text is
a near-duplicate where an earlier one that is kept has at least the threshold's Jaccard index with
it: so no two texts that stay are alike, and each that goes is like one that stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sunloom.llm.word_ngrams import Words, hash_shingles

SHINGLE = 3
"""Words of a run."""
BANDS = 32
"""Keys of a text; two texts are compared where one of them is equal."""
_RECALL = 0.999
_MOST_ROWS = 16
# Texts of one template can fill a key with texts that are all unlike: comparing each with each of
# them would take the square of their number.
_MOST_KEPT = 64


@dataclass(frozen=True)
class NearMatch:
    """A text that is like another.

    Attributes:
        row: The text.
        other: What it is like, the closest where there are several.
        jaccard: Runs that both have, as a share of those that either has.
    """

    row: int
    other: int
    jaccard: float


def band_rows(threshold: float) -> int:
    """MinHash values in a band: the most with which a pair at the threshold is found by 0.999."""
    # A band of r values is equal with probability threshold ** r.
    least = 1 - (1 - _RECALL) ** (1 / BANDS)
    if threshold**_MOST_ROWS >= least:
        return _MOST_ROWS
    return max(1, math.floor(math.log(least) / math.log(threshold)))


def hash_bands(words: Words, threshold: float) -> NDArray[np.uint32]:
    """MinHash keys of texts.

    Args:
        words: Of the texts.
        threshold: Jaccard index of texts that are to share a key.

    Returns:
        A key a band ``[N, BANDS]``; 0 where a text has no words.
    """
    hashes, rows = hash_shingles(words, SHINGLE)
    keys = np.zeros((len(words.offsets) - 1, BANDS), np.uint32)
    if not len(rows):
        return keys
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    count = band_rows(threshold)
    random = np.random.default_rng(0).integers(0, 2**32, (BANDS, count, 2), dtype=np.uint32)
    # An odd factor permutes the numbers of 32 bits.
    random[..., 0] |= 1
    permuted = np.empty_like(values)
    for band in range(BANDS):
        key = np.zeros(len(starts), np.uint64)
        for factor, summand in random[band]:
            np.multiply(values, factor, out=permuted)
            permuted += summand
            key = (key + np.minimum.reduceat(permuted, starts)) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        keys[rows[starts], band] = np.maximum(key >> np.uint64(32), 1)
    return keys


def find_near_duplicates(
    keys: NDArray[np.uint32],
    load: Callable[[NDArray[np.int64]], Words],
    threshold: float,
    judged: NDArray[np.int64],
    train: NDArray[np.int64],
    *,
    is_judged_dropped: bool,
) -> tuple[list[NearMatch], list[NearMatch]]:
    """Texts to learn from that are like one that judges, and like one to learn from before them.

    Args:
        keys: Of all texts ``[N, BANDS]``.
        load: Words of texts by their numbers.
        threshold: Least Jaccard index.
        judged: Numbers of the texts that judge; ascending.
        train: Numbers of the texts to learn from; the first of two that are alike is kept.
        is_judged_dropped: Whether a text that is like one that judges is left out, so that no other
            is compared with it.

    Returns:
        The matches with texts that judge, and the others; each text once in either.
    """
    numbers = np.concatenate([judged, train])
    buckets = _share_buckets(keys[numbers], len(judged))
    company = np.flatnonzero((buckets >= 0).any(axis=1))
    compare = _Comparison(load(numbers[company]), threshold)
    with_judged: list[NearMatch] = []
    with_kept: list[NearMatch] = []
    judges: dict[int, list[int]] = {}
    kept: dict[int, list[int]] = {}
    for index, place in enumerate(company.tolist()):
        own = [bucket for bucket in buckets[place].tolist() if bucket >= 0]
        if place < len(judged):
            _add(judges, own, index)
            continue
        for known, matches in ((judges, with_judged), (kept, with_kept)):
            others = {other for bucket in own for other in known.get(bucket, ())}
            if others and (found := compare.find_closest(index, sorted(others))) is not None:
                other, jaccard = found
                row, like = int(numbers[place]), int(numbers[company[other]])
                matches.append(NearMatch(row, like, jaccard))
                if known is kept or is_judged_dropped:
                    break
        else:
            _add(kept, own, index)
    return with_judged, with_kept


def _add(known: dict[int, list[int]], buckets: list[int], index: int) -> None:
    for bucket in buckets:
        members = known.setdefault(bucket, [])
        if len(members) < _MOST_KEPT:
            members.append(index)


def _share_buckets(keys: NDArray[np.uint32], judged: int) -> NDArray[np.int64]:
    """Number of each key that several texts have, one of them to learn from; else -1.

    Args:
        keys: Of the texts, those that judge first ``[N, BANDS]``.
        judged: How many judge.
    """
    buckets = np.full(keys.shape, -1, np.int64)
    first = 0
    for band in range(keys.shape[1]):
        known, number, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        learned = np.bincount(number[judged:], minlength=len(known))
        is_shared = (counts > 1) & (learned > 0) & (known > 0)
        buckets[:, band] = np.where(is_shared[number], number + first, -1)
        first += len(known)
    return buckets


class _Comparison:
    """Jaccard indices of texts.

    Args:
        words: Of the texts.
        threshold: Least index.
    """

    def __init__(self, words: Words, threshold: float) -> None:
        hashes, rows = hash_shingles(words, SHINGLE)
        known, numbers = np.unique(hashes, return_inverse=True)
        pairs = np.sort(rows * len(known) + numbers)
        # Each once in a text.
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        rows, self._numbers = np.divmod(pairs, max(len(known), 1))
        self._offsets = np.searchsorted(rows, np.arange(len(words.offsets)))
        self._sizes = np.diff(self._offsets)
        self._is_own = np.zeros(len(known), np.bool_)
        self._threshold = threshold

    def find_closest(self, text: int, others: list[int]) -> tuple[int, float] | None:
        """The other that a text is most like, the first of equal ones, and their index."""
        chosen = np.asarray(others)
        sizes = self._sizes[chosen]
        size = int(self._sizes[text])
        # Sets of very unlike sizes cannot share enough.
        is_possible = np.minimum(sizes, size) >= self._threshold * np.maximum(sizes, size)
        chosen, sizes = chosen[is_possible], sizes[is_possible]
        if not len(chosen):
            return None
        ends = np.cumsum(sizes)
        places = np.arange(ends[-1]) + np.repeat(self._offsets[chosen] - ends + sizes, sizes)
        own = self._numbers[self._offsets[text] : self._offsets[text + 1]]
        self._is_own[own] = True
        shared = np.add.reduceat(self._is_own[self._numbers[places]], ends - sizes, dtype=np.int64)
        self._is_own[own] = False
        indices = shared / (sizes + size - shared)
        best = int(np.argmax(indices))
        if indices[best] < self._threshold:
            return None
        return int(chosen[best]), float(indices[best])
