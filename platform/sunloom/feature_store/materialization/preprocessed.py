"""The prepared form of a feature set: what a model is trained on is what is served to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.config.preprocessing.transformations import FittedForm, ShortForm
from sunloom.core.files import atomic_path
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.core.telemetry import get_logger
from sunloom.errors import ConfigError, DataError
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.features.plan.feature_sets import EVENT_TIME
from sunloom.preprocessing.artifact import open_fitted, register, save
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.recipe import Recipe
from sunloom.preprocessing.tables import Batch

_log = get_logger("features.prepared")


@dataclass(frozen=True)
class RegisteredName:
    """Where a fitted pipeline is registered.

    Attributes:
        registry: The model registry.
        name: The model's name.
        alias: Moved to the new version, if there is one.
    """

    registry: ModelRegistry
    name: str
    alias: str | None


@dataclass(frozen=True)
class PreparationArtifact:
    """A fitted pipeline, and how it is referred to: a folder or ``name@version``."""

    pipeline: FittedPipeline
    reference: str


@dataclass(frozen=True)
class PreparedSet:
    """The prepared set beside a feature set: fitted on training rows, applied to all rows.

    Its training rows stand below ``<outputs>/features`` as any set's do (target encodings
    out-of-fold where the pipeline was fitted), with the fitted artifact in the folder
    ``transform`` beside them; its latest values stand in the online store.

    Attributes:
        name: Name of the prepared set.
        folder: Its folder.
        key: Name of the entity's key.
        steps: The recipe's ``transformations``; None where ``artifact`` is given.
        artifact: What was fitted before.
        fitted_on: Cut-offs whose rows are fitted on.
        registered: Where the fitted pipeline is registered, if at all.
        ttl: How long a record of the online store holds.
    """

    name: str
    folder: Path
    key: str
    steps: Recipe | None
    artifact: PreparationArtifact | None
    fitted_on: Sequence[date]
    registered: RegisteredName | None
    ttl: timedelta | None

    def write_training_rows(
        self, rows: pl.DataFrame, label: str, cutoffs: Sequence[datetime]
    ) -> PreparationArtifact:
        """Fit where the recipe says how, and write every cut-off's rows in prepared form.

        Args:
            rows: Key, event time, features and label at all cut-offs.
            label: The label's column: nothing changes it, nothing but a target encoder sees it.
            cutoffs: One file each.

        Raises:
            DataError: The rows cannot be fitted on.
        """
        artifact = self.artifact
        if artifact is None:
            is_fitted_on = pl.col(EVENT_TIME).dt.date().is_in(self.fitted_on)
            training = rows.filter(is_fitted_on)
            artifact = self._fit(training, label)
            others = artifact.pipeline.apply_frame(rows.filter(~is_fitted_on))
            prepared = pl.concat([artifact.pipeline.apply_frame(training, Batch(training)), others])
        else:
            prepared = artifact.pipeline.apply_frame(rows)
        write_cutoffs(prepared, cutoffs, self.folder)
        return artifact

    def write_latest(
        self, store: OnlineStore, rows: pl.DataFrame, artifact: PreparationArtifact | None
    ) -> PreparationArtifact:
        """Write the latest values in prepared form.

        Args:
            store: The online store.
            rows: Key, event time and features.
            artifact: What was fitted on training rows; without it, the latest rows are all there
                is to fit on.

        Raises:
            DataError: The rows lack a column that was fitted on.
            StoreError: The stored prepared set has other columns.
        """
        artifact = artifact or self.artifact or self._fit(rows, None)
        prepared = artifact.pipeline.apply_frame(rows)
        # Records hold 64-bit numbers only.
        wide = prepared.with_columns(
            pl.col(pl.UInt8).cast(pl.Int64), pl.col(pl.Float32).cast(pl.Float64)
        )
        store.write(self.name, wide, key=self.key, time=EVENT_TIME)
        store.set_ttl(self.name, self.ttl)
        return artifact

    def _fit(self, rows: pl.DataFrame, label: str | None) -> PreparationArtifact:
        assert self.steps is not None
        keep = [self.key, EVENT_TIME, *([label] if label else [])]
        pipeline = fit(self.steps, rows, keep=keep)
        _require_untouched(pipeline, (self.key, EVENT_TIME))
        folder = self.folder / "transform"
        save(pipeline, folder)
        for note in pipeline.report.notes:
            _log.info("%s", note)
        reference = str(folder)
        if (model := self.registered) is not None:
            reference = register(model.registry, pipeline, folder, model.name, model.alias)
        return PreparationArtifact(pipeline, reference)


def open_prepared_set(
    recipe: FeaturesRecipe, key: str, cutoffs: Sequence[datetime]
) -> PreparedSet | None:
    """The prepared set of a recipe; None where it has no ``transformations``.

    Args:
        recipe: The feature set's recipe.
        key: Name of the entity's key.
        cutoffs: Of the training rows.

    Raises:
        ConfigError: A cut-off to fit on is none of the training's, or a target is missing.
        UsageError: The fitted artifact does not exist.
        NotFoundError: The registry has no such name, version or alias.
    """
    form, config = recipe.transformations, recipe.prepared
    if form is None:
        return None
    name = config.feature_set or f"{recipe.feature_set}_prepared"
    steps = artifact = registered = None
    fitted_on: Sequence[date] = ()
    if not isinstance(form, FittedForm):
        # Before rows are computed, which may take hours.
        if isinstance(form, ShortForm):
            form.require_target()
        steps, fitted_on = form, _fitted_on(config.cutoffs, cutoffs)
        if config.name is not None:
            registered = RegisteredName(open_registry(recipe), config.name, config.alias)
    else:
        artifact = PreparationArtifact(open_fitted(recipe, form.artifact), form.artifact)
    return PreparedSet(
        name=name,
        folder=recipe.paths.outputs / "features" / name,
        key=key,
        steps=steps,
        artifact=artifact,
        fitted_on=fitted_on,
        registered=registered,
        ttl=recipe.feature_store.ttl,
    )


def write_cutoffs(rows: pl.DataFrame, cutoffs: Sequence[datetime], folder: Path) -> None:
    """Write the rows of each cut-off as a file of the folder."""
    for cutoff in cutoffs:
        with atomic_path(folder / f"training_{cutoff.date()}.parquet") as partial:
            rows.filter(pl.col(EVENT_TIME) == cutoff).write_parquet(partial)


def _fitted_on(named: Sequence[date], cutoffs: Sequence[datetime]) -> Sequence[date]:
    """The named cut-offs; without any, all but the latest, which models are judged on."""
    days = sorted(cutoff.date() for cutoff in cutoffs)
    # Without training rows the latest ones are fitted on, and no cut-off is looked at.
    if days and (unknown := [day for day in named if day not in days]):
        raise ConfigError(
            f"prepared.cutoffs names {unknown[0]}, which is no cut-off of the training.",
            f"Known: {', '.join(map(str, days))}",
            "prepared.cutoffs",
        )
    return named or (days[:-1] if len(days) > 1 else days)


def _require_untouched(pipeline: FittedPipeline, names: Sequence[str]) -> None:
    changed = {n for stage in pipeline.stages for op in stage for n in (*op.outputs, *op.removes)}
    if touched := [name for name in names if name in changed]:
        raise DataError(
            f"The transformations change {touched[0]!r}, which says whose and when a row is.",
            "Leave it out of their columns.",
            touched[0],
        )
