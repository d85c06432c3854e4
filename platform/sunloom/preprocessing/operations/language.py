"""What a text is in, and its mood: through libraries that carry their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import polars as pl

from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.operations.column_shapes import Description
from sunloom.preprocessing.operations.protocol import RowFunction, Training

UNDETERMINED = "und"
_SCORES = {"compound": "compound", "positive": "pos", "negative": "neg", "neutral": "neu"}


@lru_cache(maxsize=8)
def language_identifier(languages: tuple[str, ...]) -> Any:
    """py3langid's identifier, once a process and choice of languages.

    Args:
        languages: Codes to choose among; all where there is none.

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
def _untold(languages: tuple[str, ...]) -> tuple[str, float]:
    """What the identifier says of a text in which nothing tells, whatever its length."""
    code, sure = language_identifier(languages).classify("")
    return code, sure


@lru_cache(maxsize=1)
def sentiment_analyzer() -> Any:
    """VADER's analyzer, once a process.

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
class LanguageCode:
    """The text's language, appended; null for no text.

    Attributes:
        column: The column.
        languages: Codes to choose among; all where there is none.
        min_confidence: Below it the language is undetermined.
        confidence: Whether the confidence is appended.
    """

    op: ClassVar[str] = "language_code"
    column: str
    languages: tuple[str, ...] = ()
    min_confidence: float = 0.0
    confidence: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        name = f"{self.column}_language"
        return (name, f"{name}_confidence") if self.confidence else (name,)

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """Code and confidence."""
        found = [self._classified(text) for text in frame[self.column].cast(pl.String).to_list()]
        codes = pl.Series([code for code, _ in found], dtype=pl.String)
        sure = pl.Series([one for _, one in found], dtype=pl.Float64)
        return [part.alias(name) for name, part in zip(self.outputs, (codes, sure), strict=False)]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, names = self.column, self.outputs

        def classify(row: dict[str, Any]) -> None:
            row.update(zip(names, self._classified(row[column]), strict=False))

        return classify

    def _classified(self, text: str | None) -> tuple[str | None, float | None]:
        if text is None:
            return None, None
        code, sure = language_identifier(self.languages).classify(text)
        if (code, sure) == _untold(self.languages):
            return UNDETERMINED, 0.0
        return (UNDETERMINED if sure < self.min_confidence else code), sure


@dataclass(frozen=True)
class Mood(Description):
    """VADER's figures of an English text, appended; null for no text."""

    op: ClassVar[str] = "mood"

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column a figure."""
        found = [self._scores(text) for text in frame[self.column].cast(pl.String).to_list()]
        return [
            pl.Series(name, [scores[i] for scores in found], dtype=pl.Float64)
            for i, name in enumerate(self.outputs)
        ]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, names = self.column, self.outputs

        def score(row: dict[str, Any]) -> None:
            row.update(zip(names, self._scores(row[column]), strict=True))

        return score

    def _scores(self, text: str | None) -> list[float | None]:
        if text is None:
            return [None] * len(self.figures)
        found = sentiment_analyzer().polarity_scores(text)
        return [float(found[_SCORES[figure]]) for figure in self.figures]
