"""Operations on text by libraries that carry their models: language and sentiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import polars as pl

from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.operations.column_shapes import Description, OneColumn
from sunloom.preprocessing.operations.protocol import RowFunction, Training

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
class LanguageCode(OneColumn):
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

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """Code and confidence."""
        results = [self._classify(text) for text in frame[self.column].cast(pl.String).to_list()]
        codes = pl.Series([code for code, _ in results], dtype=pl.String)
        confidences = pl.Series([confidence for _, confidence in results], dtype=pl.Float64)
        # Not strict: the confidence is left out where it has no output.
        pairs = zip(self.outputs, (codes, confidences), strict=False)
        return [column.alias(name) for name, column in pairs]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names = self.column, self.outputs

        def classify(row: dict[str, Any]) -> None:
            row.update(zip(names, self._classify(row[column]), strict=False))

        return classify

    def _classify(self, text: str | None) -> tuple[str | None, float | None]:
        if text is None:
            return None, None
        code, confidence = language_identifier(self.languages).classify(text)
        # The model's prior means that it has recognised nothing: numbers, blanks, emoji.
        if (code, confidence) == _prior_of(self.languages):
            return UNDETERMINED, 0.0
        return (UNDETERMINED if confidence < self.min_confidence else code), confidence


@dataclass(frozen=True)
class SentimentScores(Description):
    """VADER's scores of an English text, appended; null for a missing text."""

    op: ClassVar[str] = "mood"

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per score."""
        rows = [self._scores(text) for text in frame[self.column].cast(pl.String).to_list()]
        return [
            pl.Series(name, [scores[i] for scores in rows], dtype=pl.Float64)
            for i, name in enumerate(self.outputs)
        ]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names = self.column, self.outputs

        def score(row: dict[str, Any]) -> None:
            row.update(zip(names, self._scores(row[column]), strict=True))

        return score

    def _scores(self, text: str | None) -> list[float | None]:
        if text is None:
            return [None] * len(self.figures)
        scores = sentiment_analyzer().polarity_scores(text)
        return [float(scores[_SCORES[figure]]) for figure in self.figures]
