"""How often each term occurs, and in how many texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sunloom.errors import DataError
from sunloom.preprocessing.tables.batches import Batch
from sunloom.preprocessing.tokenizer import Tokenizer


@dataclass
class Documents:
    """Counts of one column's terms.

    Attributes:
        column: The column.
        terms: How a text becomes terms.
        most: Terms above which fitting stops.
        texts: Rows; a missing text is one without terms.
        occurrences: Term to how often it occurs.
        spread: Term to the number of texts it occurs in.
    """

    column: str
    terms: Tokenizer
    most: int = 5_000_000
    texts: int = 0
    occurrences: Counter[str] = field(default_factory=Counter)
    spread: Counter[str] = field(default_factory=Counter)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.column,)

    def update(self, chunk: Batch) -> None:
        """Take some rows in."""
        self.texts += chunk.rows.height
        for text in chunk.rows[self.column].cast(str).to_list():
            counts = self.terms.counts(text)
            self.occurrences.update(counts)
            self.spread.update(counts.keys())
        self._require_few()

    def merge(self, other: Documents) -> None:
        """Take in what another one has learnt from other rows."""
        self.texts += other.texts
        self.occurrences.update(other.occurrences)
        self.spread.update(other.spread)
        self._require_few()

    def finish(self) -> Documents:
        """Itself."""
        return self

    def _require_few(self) -> None:
        if len(self.spread) > self.most:
            raise DataError(
                f"Column {self.column!r} has more than {self.most:,} terms.",
                "Use hashing_vectorizer, or shorter runs.",
                self.column,
            )
