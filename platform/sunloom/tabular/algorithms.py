"""Algorithms of binary classification: protocols, the built-in algorithms, the table by name.

Logistic regression on log-scaled columns is stored as JSON, XGBoost as its own JSON, LightGBM as
its own text. Plugins of the group ``sunloom.algorithms`` add further algorithms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sunloom.core.plugins import load_plugin, plugin_names
from sunloom.data.arrays import FloatArray
from sunloom.errors import ArtifactError, NotFoundError

PLUGIN_GROUP = "sunloom.algorithms"
ROUNDS = 100
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
        data = vars(self.scaling) | {
            "coefficients": self.coefficients,
            "intercept": self.intercept,
        }
        return json.dumps(data, indent=1, default=np.ndarray.tolist)


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
            log=bool(data["log"]),
            median=np.asarray(data["median"], dtype=np.float64),
            indicated=np.asarray(data["indicated"], dtype=np.int64),
            mean=np.asarray(data["mean"], dtype=np.float64),
            scale=np.asarray(data["scale"], dtype=np.float64),
        )
        coefficients = np.asarray(data["coefficients"], dtype=np.float64)
        return FittedLogisticRegression(scaling, coefficients, float(data["intercept"]))


def signed_log(values: FloatArray) -> FloatArray:
    """``sign(x) * log(1 + |x|)``: counts and amounts on a scale where ratios are differences."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


@dataclass(frozen=True)
class FittedXGBoost:
    """An XGBoost booster."""

    booster: Any

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Probability of label 1 for each row."""
        # Without a DMatrix, which a request of a few rows does not repay.
        return np.asarray(self.booster.inplace_predict(matrix), dtype=np.float64)

    def dump(self) -> str:
        """XGBoost's own JSON."""
        return bytes(self.booster.save_raw(raw_format="json")).decode()


class XGBoost:
    """Gradient-boosted trees by XGBoost.

    Parameters: ``rounds`` (trees, default 100), ``threads`` (default 1), the rest as XGBoost
    names them (``max_depth``, ``eta``, ``min_child_weight``, ``subsample``, …).
    """

    name = "xgboost"
    complexity = 2
    suffix = "json"

    def fit(self, matrix: FloatArray, target: FloatArray, parameters: Parameters) -> FittedXGBoost:
        """Fit with the logistic objective."""
        import xgboost

        settings = dict(parameters)
        # One thread by default: trials already run side by side on the cores.
        rounds, threads = int(settings.pop("rounds", ROUNDS)), int(settings.pop("threads", 1))
        defaults = {"objective": "binary:logistic", "nthread": threads, "verbosity": 0}
        data = xgboost.DMatrix(matrix, target)
        return FittedXGBoost(xgboost.train(defaults | settings, data, rounds))

    def load(self, text: str) -> FittedXGBoost:
        """Read XGBoost's JSON."""
        import xgboost

        try:
            booster = xgboost.Booster(model_file=bytearray(text.encode()))
        except xgboost.core.XGBoostError as error:
            raise ArtifactError("The XGBoost model is damaged.") from error
        # One request is too little work to be divided among threads.
        booster.set_param({"nthread": 1})
        return FittedXGBoost(booster)


@dataclass(frozen=True)
class FittedLightGBM:
    """A LightGBM booster."""

    booster: Any

    def predict(self, matrix: FloatArray) -> FloatArray:
        """Probability of label 1 for each row."""
        return np.asarray(self.booster.predict(matrix, num_threads=1), dtype=np.float64)

    def dump(self) -> str:
        """LightGBM's own text."""
        return str(self.booster.model_to_string())


class LightGBM:
    """Gradient-boosted trees by LightGBM.

    Parameters: ``rounds`` (trees, default 100), ``threads`` (default 1), the rest as LightGBM
    names them (``num_leaves``, ``learning_rate``, ``min_data_in_leaf``, …).
    """

    name = "lightgbm"
    complexity = 2
    suffix = "txt"

    def fit(self, matrix: FloatArray, target: FloatArray, parameters: Parameters) -> FittedLightGBM:
        """Fit with the logistic objective; deterministic for a seed."""
        import lightgbm

        settings = dict(parameters)
        rounds, threads = int(settings.pop("rounds", ROUNDS)), int(settings.pop("threads", 1))
        defaults = {"objective": "binary", "num_threads": threads, "verbosity": -1}
        # LightGBM would choose the layout by timing it, and the layouts round differently.
        defaults |= {"deterministic": True, "force_row_wise": True}
        data = lightgbm.Dataset(matrix, target)
        return FittedLightGBM(lightgbm.train(defaults | settings, data, rounds))

    def load(self, text: str) -> FittedLightGBM:
        """Read LightGBM's text."""
        import lightgbm

        try:
            return FittedLightGBM(lightgbm.Booster(model_str=text))
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError("The LightGBM model is damaged.") from error


ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm for algorithm in (LogisticRegression(), XGBoost(), LightGBM())
}


def algorithm_names() -> list[str]:
    """Names that a recipe may use."""
    return sorted({*ALGORITHMS, *plugin_names(PLUGIN_GROUP)})


def load_algorithm(name: str) -> Algorithm:
    """The algorithm of this name, from the table or from a plugin.

    Raises:
        NotFoundError: There is no such algorithm; the known ones are listed.
    """
    # Built-in names first: no plugin can change what a stored model is read with.
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in plugin_names(PLUGIN_GROUP):
        raise NotFoundError(
            f"There is no algorithm {name!r}.",
            param="algorithms",
            known=algorithm_names(),
            name=name,
        )
    plugin: Algorithm = load_plugin(PLUGIN_GROUP, name, Algorithm)
    return plugin
