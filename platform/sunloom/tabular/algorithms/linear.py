"""Logistic regression on log-scaled columns, stored as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunloom.data.arrays import FloatArray
from sunloom.tabular.algorithms.protocol import Parameters


@dataclass(frozen=True)
class _Scaling:
    """Preprocessing: log, imputation by the median with a missing indicator, standard score.

    Attributes:
        log: Whether values pass through ``sign(x) * log(1 + |x|)`` first.
        median: ``[columns]``, imputed for missing values.
        indicated: Indexes of columns that get a missing-value indicator.
        mean: ``[columns + indicators]``.
        scale: ``[columns + indicators]``.
    """

    log: bool
    median: FloatArray
    indicated: NDArray[np.int64]
    mean: FloatArray
    scale: FloatArray

    def apply(self, matrix: FloatArray) -> FloatArray:
        """The design matrix of ``[rows, columns]``."""
        return (self._expand(matrix) - self.mean) / self.scale

    def _expand(self, matrix: FloatArray) -> FloatArray:
        values = signed_log(matrix) if self.log else matrix
        missing = np.isnan(values)
        filled = np.where(missing, self.median, values)
        return np.column_stack([filled, missing[:, self.indicated].astype(np.float64)])

    @classmethod
    def learn(cls, matrix: FloatArray, log: bool) -> _Scaling:
        """Learn medians, indicators, means and scales from the training rows."""
        values = signed_log(matrix) if log else matrix
        missing = np.isnan(values)
        # A column without any value has no median, and its indicator would be constant.
        empty = missing.all(axis=0)
        median = np.zeros(values.shape[1])
        median[~empty] = np.nanmedian(values[:, ~empty], axis=0)
        indicated = np.flatnonzero(missing.any(axis=0) & ~empty)
        width = values.shape[1] + len(indicated)
        # Means and scales are those of the expanded matrix, which needs everything but them.
        unscaled = cls(log, median, indicated, np.zeros(width), np.ones(width))
        expanded = unscaled._expand(matrix)
        scale = expanded.std(axis=0)
        # A constant column would divide by zero; it becomes 0 everywhere instead.
        scale[scale == 0] = 1.0
        return cls(log, median, indicated, expanded.mean(axis=0), scale)


@dataclass(frozen=True)
class FittedLogisticRegression:
    """Scaling, one coefficient a design column, intercept; predicts with NumPy alone."""

    scaling: _Scaling
    coefficients: FloatArray
    intercept: float

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Probability of label 1 for each row."""
        scores = self.scaling.apply(matrix) @ self.coefficients + self.intercept
        with np.errstate(over="ignore"):  # exp(inf) is inf, and the probability 0
            return np.asarray(1.0 / (1.0 + np.exp(-scores)))

    def dump(self) -> str:
        """The classifier as JSON; ``repr`` of a float reads back to the same float."""
        scaling = self.scaling
        data: dict[str, Any] = {
            "log": scaling.log,
            "median": scaling.median.tolist(),
            "indicated": scaling.indicated.tolist(),
            "mean": scaling.mean.tolist(),
            "scale": scaling.scale.tolist(),
            "coefficients": self.coefficients.tolist(),
            "intercept": self.intercept,
        }
        return json.dumps(data, indent=1)


class LogisticRegression:
    """Penalised logistic regression.

    Parameters: ``c`` (inverse penalty, default 0.1), ``log`` (scale columns by logarithm,
    default true), ``max_iterations`` (default 1000).
    """

    name = "logistic_regression"
    complexity = 1
    suffix = "json"

    def fit(
        self, matrix: FloatArray, target: FloatArray, parameters: Parameters
    ) -> FittedLogisticRegression:
        """Fit with scikit-learn; the result keeps numbers, not scikit-learn's object."""
        from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

        scaling = _Scaling.learn(matrix, bool(parameters.get("log", True)))
        solver = SklearnLogisticRegression(
            C=float(parameters.get("c", 0.1)),
            max_iter=int(parameters.get("max_iterations", 1000)),
            tol=1e-6,
        )
        solver.fit(scaling.apply(matrix), target)
        return FittedLogisticRegression(
            scaling, solver.coef_[0].copy(), float(solver.intercept_[0])
        )

    def load(self, text: str) -> FittedLogisticRegression:
        """Read the JSON."""
        data = json.loads(text)
        scaling = _Scaling(
            bool(data["log"]),
            np.asarray(data["median"], dtype=np.float64),
            np.asarray(data["indicated"], dtype=np.int64),
            np.asarray(data["mean"], dtype=np.float64),
            np.asarray(data["scale"], dtype=np.float64),
        )
        coefficients = np.asarray(data["coefficients"], dtype=np.float64)
        return FittedLogisticRegression(scaling, coefficients, float(data["intercept"]))


def signed_log(values: FloatArray) -> FloatArray:
    """``sign(x) * log(1 + |x|)``: counts and amounts on a scale where ratios are differences."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))
