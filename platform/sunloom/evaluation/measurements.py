"""Measurements of a model: one figure each, with the rows behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class JudgedText:
    """One example of a figure.

    Attributes:
        question: The last thing the user said.
        expected: What the answer should have been, or been free of.
        generated: What the model wrote.
        score: From 0 to 1.
    """

    question: str
    expected: str
    generated: str
    score: float


@dataclass(frozen=True)
class Measurement:
    """One figure of one model.

    Attributes:
        figure: Its name, such as ``exact_match.calls``.
        metric: What it measures, in words.
        keys: Names of the rows; a row has the same one whichever model is judged.
        values: Of each row.
        weights: What each row counts for, such as its tokens; all alike when empty.
        texts: Each row's question and answers; () where there are none to show.
        value: The figure where it is no mean over the rows.
        standard_error: Of such a figure, where it is known.
        count: Rows behind it where none is listed.
        is_lower_better: Whether less is better, as of a loss.
    """

    figure: str
    metric: str
    keys: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    texts: tuple[JudgedText, ...] = ()
    value: float | None = None
    standard_error: float | None = None
    count: int = 0
    is_lower_better: bool = False

    @property
    def mean(self) -> float | None:
        """The figure; None where there is no row."""
        if self.value is not None or not self.values:
            return self.value
        if not self.weights:
            return math.fsum(self.values) / len(self.values)
        total = math.fsum(v * w for v, w in zip(self.values, self.weights, strict=True))
        return total / math.fsum(self.weights)


def measure_texts(
    figure: str, metric: str, texts: tuple[JudgedText, ...], *, is_lower_better: bool = False
) -> Measurement:
    """The mean score of texts that all models were asked for, in the same order."""
    return Measurement(
        figure=figure,
        metric=metric,
        keys=tuple(str(number) for number in range(1, len(texts) + 1)),
        values=tuple(text.score for text in texts),
        texts=texts,
        is_lower_better=is_lower_better,
    )
