"""Tabular models: algorithms behind one Protocol, search on Ray Tune, evaluation, storage.

Cheap to import: scikit-learn, XGBoost, LightGBM, Ray and Matplotlib load when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.tabular.evaluation import Evaluation, evaluate
    from sunloom.tabular.model import TabularModel, load_model, predictions
    from sunloom.tabular.trainer import TabularResult, train_tabular

__all__ = [
    "Evaluation",
    "TabularModel",
    "TabularResult",
    "evaluate",
    "load_model",
    "predictions",
    "train_tabular",
]

_HOMES = {
    "Evaluation": "evaluation",
    "TabularModel": "model",
    "TabularResult": "trainer",
    "evaluate": "evaluation",
    "load_model": "model",
    "predictions": "model",
    "train_tabular": "trainer",
}

__getattr__ = lazy_exports(__name__, _HOMES)
