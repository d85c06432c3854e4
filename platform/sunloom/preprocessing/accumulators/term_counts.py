"""Accumulator of how often each term occurs, and in how many texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.tables.batches import Batch
from sunloom.preprocessing.tokenizer import Tokenizer


@dataclass
class TermCounts(ColumnAccumulator):
    """Counts of one column's terms.

    Attributes:
        column: The column.
        tokenizer: How a text becomes terms.
        most: Terms above which fitting stops.
        texts: Rows; a missing text is one without terms.
        occurrences: Term to how often it occurs.
        document_counts: Term to the number of texts it occurs in.
    """

    tokenizer: Tokenizer
    most: int = 5_000_000
    texts: int = 0
    occurrences: Counter[str] = field(default_factory=Counter)
    document_counts: Counter[str] = field(default_factory=Counter)

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        self.texts += batch.rows.height
        for text in batch.rows[self.column].cast(str).to_list():
            counts = self.tokenizer.counts(text)
            self.occurrences.update(counts)
            self.document_counts.update(counts.keys())
        # After each batch: the memory grows with the terms.
        self._require_few()

    def merge(self, other: TermCounts) -> None:
        """Add the rows that another one has seen."""
        self.texts += other.texts
        self.occurrences.update(other.occurrences)
        self.document_counts.update(other.document_counts)
        self._require_few()

    def finish(self) -> TermCounts:
        """Itself."""
        return self

    def _require_few(self) -> None:
        if len(self.document_counts) > self.most:
            raise DataError(
                f"Column {self.column!r} has more than {self.most:,} terms.",
                "Use hashing_vectorizer, or shorter n-grams.",
                self.column,
            )
