"""Gradient-boosted trees: XGBoost stored as its JSON, LightGBM as its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sunloom.data.arrays import FloatArray
from sunloom.errors import ArtifactError
from sunloom.tabular.algorithms.protocol import Parameters

ROUNDS = 100


@dataclass(frozen=True)
class _BoosterParameters:
    """Parameters that both libraries have under one name here, and the rest as they name it."""

    rounds: int
    threads: int
    settings: dict[str, Any]

    @classmethod
    def parse(cls, parameters: Parameters) -> _BoosterParameters:
        settings = dict(parameters)
        rounds = int(settings.pop("rounds", ROUNDS))
        # One thread by default: trials already run side by side on the cores.
        return cls(rounds=rounds, threads=int(settings.pop("threads", 1)), settings=settings)


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

        own = _BoosterParameters.parse(parameters)
        defaults = {"objective": "binary:logistic", "nthread": own.threads, "verbosity": 0}
        data = xgboost.DMatrix(matrix, target)
        return FittedXGBoost(xgboost.train(defaults | own.settings, data, own.rounds))

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

        own = _BoosterParameters.parse(parameters)
        defaults = {"objective": "binary", "num_threads": own.threads, "verbosity": -1}
        # LightGBM would choose the layout by timing it, and the layouts round differently.
        defaults |= {"deterministic": True, "force_row_wise": True}
        data = lightgbm.Dataset(matrix, target)
        return FittedLightGBM(lightgbm.train(defaults | own.settings, data, own.rounds))

    def load(self, text: str) -> FittedLightGBM:
        """Read LightGBM's text."""
        import lightgbm

        try:
            return FittedLightGBM(lightgbm.Booster(model_str=text))
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError("The LightGBM model is damaged.") from error
