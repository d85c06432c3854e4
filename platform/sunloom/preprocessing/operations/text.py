"""Operations on one text column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from string import punctuation
from typing import Any, ClassVar, Literal
from unicodedata import category

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.preprocessing.operations.column_shapes import Description, Expansion
from sunloom.preprocessing.operations.hashing import place_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training
from sunloom.preprocessing.tokenizer import Tokenizer, length_of, sublinear

_PUNCTUATION = r"""[!-/:-@\[-`{-~]"""
_Weigh = Callable[[str | None], dict[int, float]]


def _share(count: pl.Expr, text: pl.Expr) -> pl.Expr:
    size = text.str.len_chars()
    return pl.when(size == 0).then(0.0).otherwise(count / size)


def _words(text: pl.Expr) -> pl.Expr:
    return text.str.extract_all(r"\S+")


_FIGURES: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "characters": lambda t: t.str.len_chars().cast(pl.Int64),
    "words": lambda t: _words(t).list.len().cast(pl.Int64),
    "mean_word_length": lambda t: _words(t).list.eval(pl.element().str.len_chars()).list.mean(),
    "unique_word_share": lambda t: _words(t).list.n_unique() / _words(t).list.len(),
    "uppercase_share": lambda t: _share(t.str.count_matches(r"\p{Lu}"), t),
    "digit_share": lambda t: _share(t.str.count_matches(r"\p{Nd}"), t),
    "punctuation_share": lambda t: _share(t.str.count_matches(_PUNCTUATION), t),
}
_WHOLE = ("characters", "words")
_PYTHON: Mapping[str, Callable[[str], float]] = {
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
    """Figures about a text, appended; null for no text."""

    op: ClassVar[str] = "text_figures"

    def columns(self, _frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Expr]:
        """The figures."""
        text = pl.col(self.column).cast(pl.String)
        found = []
        for figure, name in zip(self.figures, self.outputs, strict=True):
            value = _FIGURES[figure](text)
            if figure not in _WHOLE:
                # A text without words has no mean; a missing one has no figure at all.
                value = pl.when(text.is_not_null()).then(value.fill_nan(None).fill_null(0.0))
            found.append(value.alias(name))
        return found

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column = self.column
        made = [(n, _PYTHON[f]) for n, f in zip(self.outputs, self.figures, strict=True)]

        def count(row: dict[str, Any]) -> None:
            text = row[column]
            for name, function in made:
                row[name] = None if text is None else function(text)

        return count


@dataclass(frozen=True)
class TermVector(Expansion):
    """A text as numbers, one a term or a hashed place; takes the column's place.

    Attributes:
        column: The column.
        names: Columns of the result.
        terms: How a text becomes terms: ``Tokenizer`` as a tuple of its fields.
        vocabulary: Terms in the order of ``names``; empty where they are hashed.
        weights: One a term; empty where all are 1.
        norm: What each text's numbers are divided by.
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
    def _vector(self) -> _Weigh:
        """Text to place and value."""
        terms = Tokenizer(*self.terms)
        places = {term: i for i, term in enumerate(self.vocabulary)}
        weights = self.weights.to_list()
        norm, is_hashed, count = self.norm, not places, len(self.names)

        def weigh(text: str | None) -> dict[int, float]:
            found: dict[int, float] = {}
            for term, times in terms.counts(text).items():
                value = sublinear(times) if self.sublinear else float(times)
                if is_hashed:
                    place, sign = place_of(term, count, self.alternate)
                    found[place] = found.get(place, 0.0) + sign * value
                elif (known := places.get(term)) is not None:
                    found[known] = value * weights[known] if weights else value
            size = length_of(list(found.values()), norm)
            return {place: value / size for place, value in found.items()}

        return weigh

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column a name."""
        table: FloatArray = np.zeros((len(self.names), frame.height))
        for row, text in enumerate(frame[self.column].cast(pl.String).to_list()):
            for place, value in self._vector(text).items():
                table[place, row] = value
        return [pl.Series(name, table[i]) for i, name in enumerate(self.names)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, names, vector = self.column, self.names, self._vector
        zeros = dict.fromkeys(names, 0.0)

        def spread(row: dict[str, Any]) -> None:
            found = vector(row.pop(column))
            row.update(zeros)
            for place, value in found.items():
                row[names[place]] = value

        return spread


def plain_terms(terms: Tokenizer) -> tuple[Any, ...]:
    """The fields of ``Tokenizer``, for an artifact."""
    return tuple(getattr(terms, one.name) for one in fields(terms))
