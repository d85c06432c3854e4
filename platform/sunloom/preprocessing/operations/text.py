"""Operations on one text column: figures, vectors of its terms, language, sentiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log, sqrt
from string import punctuation
from typing import Any, ClassVar, Literal
from unicodedata import category

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.operations.categories import bucket_of
from sunloom.preprocessing.operations.protocol import (
    ByValue,
    Description,
    Expansion,
    RowFunction,
    Training,
)
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


UNDETERMINED = "und"
_SCORES = {"compound": "compound", "positive": "pos", "negative": "neg", "neutral": "neu"}


@lru_cache(maxsize=8)
def language_identifier(languages: tuple[str, ...]) -> Any:
    """py3langid's identifier, cached per process and choice of languages.

    Args:
        languages: Codes to choose among; all when empty.

    Raises:
        DependencyError: py3langid is not installed.
        DataError: A code is not known.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise DependencyError("language needs py3langid.", "pip install py3langid") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if unknown := [code for code in languages if code not in identifier.labels]:
        raise DataError(
            f"languages holds {unknown[0]!r}, which py3langid does not know.",
            f"Known: {', '.join(sorted(identifier.labels))}.",
            "languages",
        )
    if languages:
        identifier.set_languages(list(languages))
    return identifier


@lru_cache(maxsize=8)
def _prior_of(languages: tuple[str, ...]) -> tuple[str, float]:
    """The identifier's result for a text without any known feature, whatever its length."""
    code, confidence = language_identifier(languages).classify("")
    return code, confidence


@lru_cache(maxsize=1)
def sentiment_analyzer() -> Any:
    """VADER's analyzer, cached per process.

    Raises:
        DependencyError: vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise DependencyError(
            "sentiment needs vaderSentiment.", "pip install vaderSentiment"
        ) from error
    return SentimentIntensityAnalyzer()


@dataclass(frozen=True)
class LanguageCode(ByValue):
    """The text's language, appended; null for a missing text.

    Attributes:
        column: The column.
        languages: Codes to choose among; all when empty.
        min_confidence: Below it the language is undetermined.
        confidence: Whether the confidence is appended.
    """

    op: ClassVar[str] = "language_code"
    languages: tuple[str, ...] = ()
    min_confidence: float = 0.0
    confidence: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        name = f"{self.column}_language"
        return (name, f"{name}_confidence") if self.confidence else (name,)

    @property
    def dtypes(self) -> Sequence[Any]:
        """Text, and a number where the confidence is appended."""
        return (pl.String, pl.Float64)[: len(self.outputs)]

    def describe(self, value: Any) -> Sequence[Any]:
        """Code and confidence of a text."""
        if value is None:
            return [None] * len(self.outputs)
        code, confidence = language_identifier(self.languages).classify(value)
        # The model's prior means that it has recognised nothing: numbers, blanks, emoji.
        if (code, confidence) == _prior_of(self.languages):
            code, confidence = UNDETERMINED, 0.0
        elif confidence < self.min_confidence:
            code = UNDETERMINED
        return (code, confidence)[: len(self.outputs)]


@dataclass(frozen=True)
class SentimentScores(ByValue, Description):
    """VADER's scores of an English text, appended; null for a missing text."""

    op: ClassVar[str] = "mood"

    @property
    def dtypes(self) -> Sequence[Any]:
        """Numbers."""
        return [pl.Float64] * len(self.figures)

    def describe(self, value: Any) -> Sequence[Any]:
        """The scores of a text."""
        if value is None:
            return [None] * len(self.figures)
        scores = sentiment_analyzer().polarity_scores(value)
        return [float(scores[_SCORES[figure]]) for figure in self.figures]
