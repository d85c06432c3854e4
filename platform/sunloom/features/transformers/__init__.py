"""Prepare columns: fit a recipe once, give the same numbers in batch and at serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.transformers.artifact import load, save
    from sunloom.features.transformers.fitted import FittedRecipe
    from sunloom.features.transformers.fitting import fit, fit_transform

__all__ = ["FittedRecipe", "fit", "fit_transform", "load", "save"]

_HOMES = {
    "FittedRecipe": "fitted",
    "fit": "fitting",
    "fit_transform": "fitting",
    "load": "artifact",
    "save": "artifact",
}

__getattr__ = lazy_exports(__name__, _HOMES)
