"""Protocols of an algorithm and of a fitted model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from sunloom.data.arrays import FloatArray

Parameters = Mapping[str, Any]
"""Hyperparameters by name."""


@runtime_checkable
class FittedModel(Protocol):
    """A fitted binary classifier that can be written as text."""

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Probability of label 1 for each row of ``[rows, columns]``; NaN is a missing value."""

    def dump(self) -> str:
        """The whole classifier as text; ``Algorithm.load`` restores the same predictions."""


@runtime_checkable
class Algorithm(Protocol):
    """A way to fit a binary classifier.

    Attributes:
        name: Name in recipes and artifacts.
        complexity: Rank by which the simpler of two equally good algorithms is preferred.
        suffix: Of the file that holds the dumped text.
    """

    name: str
    complexity: int
    suffix: str

    def fit(self, matrix: FloatArray, target: FloatArray, parameters: Parameters) -> FittedModel:
        """Fit to ``[rows, columns]`` with NaN for missing, and a target of 0.0 and 1.0."""

    def load(self, text: str) -> FittedModel:
        """Read what ``FittedModel.dump`` wrote; executes nothing."""
