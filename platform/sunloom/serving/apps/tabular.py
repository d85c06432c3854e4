"""The app at ``/predict``: tabular models by registry name, features from the online store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelVersion, open_registry
from sunloom.errors import DataError, NotFoundError, RequestError
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.serving.apps.fastapi_app import ClosedBody, build_fastapi
from sunloom.tabular.model import TabularModel, load_model, predictions

KIND = "tabular"
_TRUSTED_S = 1.0
_MAX_ENTITIES = 10_000
# Strict: ``true`` is no entity, though Python's is the number 1.
EntityId = StrictInt | Annotated[StrictStr, Field(max_length=200)]
_ID_COLUMNS = ("id", "entity_id")
"""Columns of a row that name its entity."""


class PredictionRequest(ClosedBody):
    """Entities whose features are read from the online store, or rows with their features."""

    entity_ids: Annotated[list[EntityId] | None, Field(max_length=_MAX_ENTITIES)] = None
    rows: Annotated[list[dict[str, Any]] | None, Field(max_length=_MAX_ENTITIES)] = None
    feature_set: str | None = None

    @model_validator(mode="after")
    def _check_exactly_one(self) -> PredictionRequest:
        if (self.entity_ids is None) == (self.rows is None):
            raise ValueError("give either entity_ids or rows")
        return self


class PredictionView(BaseModel):
    """A prediction; an unknown entity has none."""

    entity_id: EntityId | None
    found: bool = True
    probability: float | None
    prediction: str | None


class Predictions(BaseModel):
    """Predictions in the order of the request."""

    model: str
    predictions: list[PredictionView]


class LoadedModels:
    """Registered models, loaded on first use; a moved alias is followed within a second.

    Args:
        settings: Settings of the registry.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = open_registry(settings)
        self._versions = TtlCache[str, ModelVersion](_TRUSTED_S)
        self._models: dict[str, TabularModel] = {}

    def find(self, ref: str) -> tuple[ModelVersion, TabularModel]:
        """The version that a name stands for now, and its model.

        Raises:
            NotFoundError: There is no tabular model of that name; lists the known ones.
        """
        version = self._versions.get_or_load(ref, lambda: self._look_up(ref))
        # Read once: another thread may remove it between two look-ups.
        model = self._models.get(version.ref)
        if model is None:
            model = load_model(self._registry.path(version))
            # One version of a model at a time, so that promotions do not fill the memory.
            for ref in [ref for ref in self._models if ref.partition("@")[0] == version.name]:
                # With a default: requests run in threads, and another one may have removed it.
                self._models.pop(ref, None)
            self._models[version.ref] = model
        return version, model

    def names(self) -> list[str]:
        """Names of tabular models."""
        return sorted({version.name for version in self._registry.list(KIND)})

    def _look_up(self, ref: str) -> ModelVersion:
        name, known = ref.partition("@")[0], self.names()
        if name not in known:
            raise NotFoundError(
                f"There is no tabular model {name!r}.", known=known, name=name, param="model"
            )
        return self._registry.get(ref)


def build_tabular_app(settings: Settings) -> FastAPI:
    """The tabular FastAPI app; the middleware goes in front of it."""
    models, store = LoadedModels(settings), open_online_store(settings)
    router = APIRouter(prefix="/predict", tags=["predict"])

    @router.get("")
    async def list_models() -> dict[str, list[str]]:
        """Names of the registered tabular models."""
        # The registry's database is read in a thread: the loop serves other requests.
        return {"models": await asyncio.to_thread(models.names)}

    @router.post("/{model}")
    async def predict(model: str, body: PredictionRequest) -> Predictions:
        """Probability and label for each entity or row, in order."""
        return await asyncio.to_thread(answer_request, models, store, model, body)

    app = build_fastapi("Sunloom tabular models", "/predict")
    app.include_router(router)
    return app


def answer_request(
    models: LoadedModels, store: OnlineStore, ref: str, body: PredictionRequest
) -> Predictions:
    """Predict for entities or rows.

    Raises:
        NotFoundError: Unknown model or feature set.
        RequestError: No feature set has the features that the model needs.
        DataError: A row lacks a feature, or has a value that is no number, text or null.
    """
    version, model = models.find(ref)
    if body.rows is not None:
        rows = _rows_of_model(model, body.rows)
        views = [PredictionView(**vars(result)) for result in predictions(model, rows)]
        return Predictions(model=version.ref, predictions=views)
    ids = body.entity_ids or []
    feature_set = body.feature_set or _feature_set(version, model, store)
    records = store.read(feature_set, ids, features=list(model.feature_names))
    known = [record for record in records if record is not None]
    # One call of the model for all known entities; unknown ones are filled in between.
    results = iter(predictions(model, known) if known else [])
    views = [
        PredictionView(**vars(next(results)) | {"entity_id": entity})
        if record is not None
        else PredictionView(entity_id=entity, found=False, probability=None, prediction=None)
        for entity, record in zip(ids, records, strict=True)
    ]
    return Predictions(model=version.ref, predictions=views)


def _rows_of_model(model: TabularModel, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the model's columns and their entity only, and only scalars in them.

    A table is made of them: one column for each key that any row has, of the type of its values.
    """
    for number, row in enumerate(rows):
        for name in _ID_COLUMNS:
            value = row.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
                raise DataError(
                    f"rows[{number}]: {name} is neither a whole number nor text.", param="rows"
                )
        for name in model.feature_names:
            if isinstance(row.get(name), list | dict):
                raise DataError(
                    f"rows[{number}]: {name} is a list or an object, and a feature is one value.",
                    param="rows",
                )
    names = (*_ID_COLUMNS, *model.feature_names)
    return [{name: row[name] for name in names if name in row} for row in rows]


def _feature_set(version: ModelVersion, model: TabularModel, store: OnlineStore) -> str:
    """The feature set that the model was trained on, or the only one that has all its features."""
    for record in (version.lineage, model.about):
        if isinstance(record.get("feature_set"), str):
            return str(record["feature_set"])
    needed = set(model.feature_names)
    fitting = [name for name in store.feature_sets() if needed <= set(store.schema(name).names)]
    if len(fitting) != 1:
        raise RequestError(
            f"{version.ref} needs features that {'several sets' if fitting else 'no set'} hold.",
            f"Name one in feature_set: {', '.join(fitting or store.feature_sets())}",
            "feature_set",
        )
    return fitting[0]
