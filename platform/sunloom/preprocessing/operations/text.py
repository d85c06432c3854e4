"""Operations on one text column: figures about it, and vectors of its terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from string import punctuation
from typing import Any, ClassVar, Literal
from unicodedata import category

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.operations.column_shapes import Description, Expansion
from sunloom.preprocessing.operations.hashing import bucket_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training
from sunloom.preprocessing.tokenizer import Tokenizer

# ``string.punctuation`` as a class of Polars' regular expressions.
_PUNCTUATION = r"""[!-/:-@\[-`{-~]"""


def _share_of_characters(count: pl.Expr, text: pl.Expr) -> pl.Expr:
    size = text.str.len_chars()
    return pl.when(size == 0).then(0.0).otherwise(count / size)


def _words(text: pl.Expr) -> pl.Expr:
    # As ``str.split`` divides: Polars splits at one character only.
    return text.str.extract_all(r"\S+")


_FIGURE_OF_COLUMN: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "characters": lambda t: t.str.len_chars().cast(pl.Int64),
    "words": lambda t: _words(t).list.len().cast(pl.Int64),
    "mean_word_length": lambda t: _words(t).list.eval(pl.element().str.len_chars()).list.mean(),
    "unique_word_share": lambda t: _words(t).list.n_unique() / _words(t).list.len(),
    "uppercase_share": lambda t: _share_of_characters(t.str.count_matches(r"\p{Lu}"), t),
    "digit_share": lambda t: _share_of_characters(t.str.count_matches(r"\p{Nd}"), t),
    "punctuation_share": lambda t: _share_of_characters(t.str.count_matches(_PUNCTUATION), t),
}
_WHOLE_NUMBERS = ("characters", "words")
_FIGURE_OF_TEXT: Mapping[str, Callable[[str], float]] = {
    "characters": len,
    "words": lambda t: len(t.split()),
    "mean_word_length": lambda t: _ratio(sum(map(len, t.split())), len(t.split())),
    "unique_word_share": lambda t: _ratio(len(set(t.split())), len(t.split())),
    "uppercase_share": lambda t: _ratio(sum(category(c) == "Lu" for c in t), len(t)),
    "digit_share": lambda t: _ratio(sum(category(c) == "Nd" for c in t), len(t)),
    "punctuation_share": lambda t: _ratio(sum(c in punctuation for c in t), len(t)),
}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class TextFigures(Description):
    """Figures about a text, appended; null for a missing text."""

    op: ClassVar[str] = "text_figures"

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The figures."""
        text = pl.col(self.column).cast(pl.String)
        columns = []
        for figure, name in zip(self.figures, self.outputs, strict=True):
            value = _FIGURE_OF_COLUMN[figure](text)
            if figure not in _WHOLE_NUMBERS:
                # A text without words has no mean; a missing one has no figure at all.
                value = pl.when(text.is_not_null()).then(value.fill_nan(None).fill_null(0.0))
            columns.append(value.alias(name))
        return columns

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column = self.column
        functions = [
            (name, _FIGURE_OF_TEXT[figure])
            for name, figure in zip(self.outputs, self.figures, strict=True)
        ]

        def describe(row: dict[str, Any]) -> None:
            text = row[column]
            for name, function in functions:
                row[name] = None if text is None else function(text)

        return describe


@dataclass(frozen=True)
class TermVector(Expansion):
    """A text as numbers, one per term or hash bucket, in the column's place.

    Attributes:
        column: The column.
        names: Columns of the result.
        terms: How a text becomes terms: the fields of ``Tokenizer`` as a tuple.
        vocabulary: Terms in the order of ``names``; empty where they are hashed.
        weights: One per term; empty where all are 1.
        norm: Norm that each text's numbers are divided by.
        sublinear: Whether a count is replaced by 1 + its logarithm.
        alternate: Whether half of the hashed terms count negatively.
    """

    op: ClassVar[str] = "term_vector"
    terms: tuple[Any, ...]
    vocabulary: pl.Series
    weights: pl.Series
    norm: Literal["l1", "l2"] | None = "l2"
    sublinear: bool = False
    alternate: bool = True

    @cached_property
    def _weigh(self) -> Callable[[str | None], dict[int, float]]:
        """A text to the places of its terms and their values: what is 0 is left out."""
        tokenizer = Tokenizer(*self.terms)
        places = {term: i for i, term in enumerate(self.vocabulary)}
        weights = self.weights.to_list()
        norm, is_hashed, count = self.norm, not places, len(self.names)

        def weigh(text: str | None) -> dict[int, float]:
            values: dict[int, float] = {}
            for term, times in tokenizer.counts(text).items():
                value = 1.0 + log(times) if self.sublinear else float(times)
                if is_hashed:
                    bucket, sign = bucket_of(term, count, self.alternate)
                    values[bucket] = values.get(bucket, 0.0) + sign * value
                elif (place := places.get(term)) is not None:
                    values[place] = value * weights[place] if weights else value
            length = _length_of(values.values(), norm)
            return {place: value / length for place, value in values.items()}

        return weigh

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per name."""
        table: FloatArray = np.zeros((len(self.names), frame.height))
        for row, text in enumerate(frame[self.column].cast(pl.String).to_list()):
            for place, value in self._weigh(text).items():
                table[place, row] = value
        return [pl.Series(name, table[i]) for i, name in enumerate(self.names)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names, weigh = self.column, self.names, self._weigh
        zeros = dict.fromkeys(names, 0.0)

        def spread(row: dict[str, Any]) -> None:
            values = weigh(row.pop(column))
            row.update(zeros)
            for place, value in values.items():
                row[names[place]] = value

        return spread


def _length_of(values: Iterable[float], norm: str | None) -> float:
    """The norm of some values; 1 where there is nothing to divide."""
    if norm is None:
        return 1.0
    length = sum(map(abs, values)) if norm == "l1" else sqrt(sum(v * v for v in values))
    return length or 1.0
