"""The prepared form of a feature set: what a model is trained on is what is served to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.config.preprocessing.transformations import FittedForm
from sunloom.core.files import atomic_path
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConfigError, DataError
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.preprocessing.artifact import save
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.job import open_fitted, register
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.tables.batches import Batch

_log = get_logger("features.prepared")


class Preparation:
    """Fits the recipe's ``transformations`` on training rows, and prepares rows with them.

    The prepared set has a name of its own. Its training rows lie below ``<outputs>/features`` as
    any set's do (target encodings out-of-fold where they were learnt from), with the fitted
    artifact in the folder ``transform`` beside them; its latest values lie in the online store.

    Args:
        recipe: The feature set's recipe.
        key: Name of the entity's key.
    """

    def __init__(self, recipe: FeaturesRecipe, key: str) -> None:
        self._recipe, self._key = recipe, key
        self._fitted: FittedPipeline | None = None
        self.told: dict[str, Any] = {}
        """What a run's summary says of it; empty where the recipe prepares nothing."""
        if isinstance(recipe.transformations, FittedForm):
            reference = recipe.transformations.artifact
            self._fitted = open_fitted(recipe, reference)
            self.told["prepared_by"] = reference

    @property
    def feature_set(self) -> str:
        """Name of the prepared set."""
        return self._recipe.prepared.feature_set or f"{self._recipe.feature_set}_prepared"

    def train(self, rows: pl.DataFrame, label: str) -> None:
        """Fit where the recipe says how, and write every cut-off's rows in prepared form.

        Args:
            rows: Key, event time, features and label at all cut-offs.
            label: The label's column: nothing changes it, nothing but a target encoder sees it.

        Raises:
            ConfigError: A cut-off to learn from is none of the training's.
            DataError: The rows cannot be learnt from.
        """
        if self._recipe.transformations is None:
            return
        when = pl.col(EVENT_TIME).dt.date()
        if self._fitted is None:
            learnt = self._learnt_from()
            training = rows.filter(when.is_in(learnt))
            fitted = self._fit(training, label)
            others = fitted.apply_frame(rows.filter(~when.is_in(learnt)))
            prepared = pl.concat([fitted.training_frame(Batch(training)), others])
        else:
            prepared = self._fitted.apply_frame(rows)
        for moment in self._recipe.moments():
            path = self._folder / f"training_{moment.date()}.parquet"
            with atomic_path(path) as partial:
                prepared.filter(pl.col(EVENT_TIME) == moment).write_parquet(partial)
        self.told |= {"prepared_set": self.feature_set, "prepared_rows": rows.height}

    def serve(self, store: OnlineStore, rows: pl.DataFrame) -> None:
        """Write the latest values in prepared form.

        Raises:
            DataError: The rows lack a column that was fitted on.
            StoreError: The stored prepared set has other columns.
        """
        if self._recipe.transformations is None:
            return
        # Without training rows the latest ones are all there is to learn from.
        fitted = self._fitted or self._fit(rows, None)
        prepared = storable(fitted.apply_frame(rows))
        store.write(self.feature_set, prepared, key=self._key, time=EVENT_TIME)
        store.set_ttl(self.feature_set, self._recipe.feature_store.ttl)
        self.told |= {"prepared_set": self.feature_set, "prepared_entities": rows.height}

    @property
    def _folder(self) -> Path:
        return self._recipe.paths.outputs / "features" / self.feature_set

    def _fit(self, rows: pl.DataFrame, label: str | None) -> FittedPipeline:
        keep = [self._key, EVENT_TIME, *([label] if label else [])]
        recipe: Any = self._recipe.transformations
        self._fitted = fitted = fit(recipe, rows, keep=keep)
        _refuse_touched(fitted, keep[:2])
        folder = self._folder / "transform"
        save(fitted, folder)
        self.told["prepared_by"] = str(folder)
        wanted = self._recipe.prepared
        if wanted.name is not None:
            reference = register(self._recipe, fitted, folder, wanted.name, wanted.alias)
            self.told["prepared_by"] = reference
        for note in fitted.about["notes"]:
            _log.info("%s", note)
        return fitted

    def _learnt_from(self) -> Sequence[date]:
        days = [moment.date() for moment in self._recipe.moments()]
        wanted = self._recipe.prepared.cutoffs
        if unknown := [day for day in wanted if day not in days]:
            raise ConfigError(
                f"prepared.cutoffs names {unknown[0]}, which is no cut-off of the training.",
                f"Known: {', '.join(map(str, days))}",
                "prepared.cutoffs",
            )
        return wanted or (sorted(days)[:-1] if len(days) > 1 else days)


def storable(frame: pl.DataFrame) -> pl.DataFrame:
    """Narrow numbers widened to the types that records hold."""
    wide: dict[Any, Any] = {pl.UInt8: pl.Int64, pl.Float32: pl.Float64}
    return frame.cast({name: wide[d] for name, d in frame.schema.items() if d in wide})


def _refuse_touched(fitted: FittedPipeline, names: Sequence[str]) -> None:
    touched = {n for stage in fitted.stages for op in stage for n in (*op.outputs, *op.removes)}
    if bad := [name for name in names if name in touched]:
        raise DataError(
            f"The transformations change {bad[0]!r}, which says whose and when a row is.",
            "Leave it out of their columns.",
            bad[0],
        )
