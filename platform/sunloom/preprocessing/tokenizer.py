"""A text's terms, as scikit-learn's analyzers make them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from typing import Literal

_BLANKS = re.compile(r"\s\s+")


@dataclass(frozen=True)
class Tokenizer:
    """How a text becomes terms.

    Attributes:
        analyzer: Words, characters, or characters within words.
        low: Least neighbours that make a term.
        high: Most neighbours that make a term.
        lowercase: Whether case is ignored.
        stop_words: Words that do not count.
        pattern: What a word is.
        binary: Whether a term counts once a text.
    """

    analyzer: Literal["word", "char", "char_wb"] = "word"
    low: int = 1
    high: int = 1
    lowercase: bool = True
    stop_words: tuple[str, ...] = ()
    pattern: str = r"(?u)\b\w\w+\b"
    binary: bool = False

    @cached_property
    def _words(self) -> Callable[[str], list[str]]:
        return re.compile(self.pattern).findall

    def of(self, text: str | None) -> list[str]:
        """The terms of a text, repeated as often as they occur; none for no text."""
        if text is None:
            return []
        text = text.lower() if self.lowercase else text
        if self.analyzer == "word":
            words = self._words(text)
            if self.stop_words:
                words = [word for word in words if word not in self.stop_words]
            return words if self.high == 1 else _runs(words, self.low, self.high, " ")
        text = _BLANKS.sub(" ", text)
        if self.analyzer == "char":
            return _runs(list(text), self.low, self.high, "")
        return [run for word in text.split() for run in self._within(f" {word} ")]

    def _within(self, word: str) -> list[str]:
        found: list[str] = []
        for length in range(self.low, self.high + 1):
            found += [word[i : i + length] for i in range(max(len(word) - length, 0) + 1)]
            if len(word) <= length:
                # A short word counts once, whatever longer runs are asked for.
                break
        return found

    def counts(self, text: str | None) -> Counter[str]:
        """Term to how often it occurs."""
        found = Counter(self.of(text))
        return Counter(dict.fromkeys(found, 1)) if self.binary else found


def _runs(parts: list[str], low: int, high: int, between: str) -> list[str]:
    return [
        between.join(parts[i : i + length])
        for length in range(low, min(high, len(parts)) + 1)
        for i in range(len(parts) - length + 1)
    ]


def sublinear(count: float) -> float:
    """1 + the logarithm of a count."""
    return 1.0 + log(count)


def length_of(values: list[float], norm: str | None) -> float:
    """What values are divided by; 1 where there is nothing to divide."""
    if norm is None:
        return 1.0
    found = sum(map(abs, values)) if norm == "l1" else sqrt(sum(v * v for v in values))
    return found or 1.0
