"""Tokenizer that makes a text's terms as scikit-learn's analyzers do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

_BLANKS = re.compile(r"\s\s+")


@dataclass(frozen=True)
class Tokenizer:
    """How a text becomes terms.

    Attributes:
        analyzer: Words, characters, or characters within words.
        low: Shortest n-gram.
        high: Longest n-gram.
        lowercase: Whether case is ignored.
        stop_words: Words that do not count.
        pattern: What a word is.
        binary: Whether a term counts once per text.
    """

    analyzer: Literal["word", "char", "char_wb"] = "word"
    low: int = 1
    high: int = 1
    lowercase: bool = True
    stop_words: tuple[str, ...] = ()
    pattern: str = r"(?u)\b\w\w+\b"
    binary: bool = False

    @cached_property
    def _find_words(self) -> Callable[[str], list[str]]:
        return re.compile(self.pattern).findall

    def terms(self, text: str | None) -> list[str]:
        """The terms of a text, repeated as often as they occur; none for a missing text."""
        if text is None:
            return []
        text = text.lower() if self.lowercase else text
        if self.analyzer == "word":
            words = self._find_words(text)
            if self.stop_words:
                words = [word for word in words if word not in self.stop_words]
            return words if self.high == 1 else self._ngrams(words, " ")
        text = _BLANKS.sub(" ", text)
        if self.analyzer == "char":
            return self._ngrams(list(text), "")
        return [ngram for word in text.split() for ngram in self._ngrams_within(f" {word} ")]

    def counts(self, text: str | None) -> Counter[str]:
        """Term to how often it occurs."""
        counts = Counter(self.terms(text))
        return Counter(dict.fromkeys(counts, 1)) if self.binary else counts

    def _ngrams(self, parts: list[str], separator: str) -> list[str]:
        return [
            separator.join(parts[i : i + length])
            for length in range(self.low, min(self.high, len(parts)) + 1)
            for i in range(len(parts) - length + 1)
        ]

    def _ngrams_within(self, word: str) -> list[str]:
        ngrams: list[str] = []
        for length in range(self.low, self.high + 1):
            ngrams += [word[i : i + length] for i in range(max(len(word) - length, 0) + 1)]
            if len(word) <= length:
                # A short word counts once, however long n-grams may be.
                break
        return ngrams
