"""The app at ``/predict``: tabular models by registry name, features from the online store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field, model_validator

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelVersion, open_registry
from sunloom.errors import NotFoundError, RequestError
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.serving.apps.fastapi_app import build_fastapi
from sunloom.tabular.model import TabularModel, load_model, predictions

KIND = "tabular"
_TRUSTED_S = 1.0
_MOST = 10_000
EntityId = int | str


class PredictionRequest(BaseModel):
    """Entities whose features are read from the online store, or rows that bring their own."""

    entity_ids: Annotated[list[EntityId] | None, Field(max_length=_MOST)] = None
    rows: Annotated[list[dict[str, Any]] | None, Field(max_length=_MOST)] = None
    feature_set: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> PredictionRequest:
        if (self.entity_ids is None) == (self.rows is None):
            raise ValueError("give either entity_ids or rows")
        return self


class Prediction(BaseModel):
    """One answer; an unknown entity has none."""

    entity_id: EntityId | None
    found: bool = True
    probability: float | None
    prediction: str | None


class Predictions(BaseModel):
    """Answers in the order of the request."""

    model: str
    predictions: list[Prediction]


class ModelShelf:
    """Registered models, loaded when asked for; an alias that moves is followed within a second.

    Args:
        settings: Where the registry is.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = open_registry(settings)
        self._versions = TtlCache[str, ModelVersion](_TRUSTED_S)
        self._models: dict[str, TabularModel] = {}

    def find(self, ref: str) -> tuple[ModelVersion, TabularModel]:
        """The version that a name means now, and its model.

        Raises:
            NotFoundError: No tabular model bears the name; the known ones are listed.
        """
        version = self._versions.get_or_load(ref, lambda: self._look_up(ref))
        if version.ref not in self._models:
            # One version of a name at a time: the one before is not needed again.
            stale = [held for held in self._models if held.partition("@")[0] == version.name]
            loaded = load_model(self._registry.path(version))
            for held in stale:
                self._models.pop(held, None)
            self._models[version.ref] = loaded
        return version, self._models[version.ref]

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
    """The tabular app; the guard goes in front of it."""
    shelf, store = ModelShelf(settings), open_online_store(settings)
    router = APIRouter(prefix="/predict", tags=["predict"])

    @router.get("")
    async def list_models() -> dict[str, list[str]]:
        """Names of the models that can be asked."""
        return {"models": await asyncio.to_thread(shelf.names)}

    @router.post("/{model}")
    async def predict(model: str, body: PredictionRequest) -> Predictions:
        """Probability and label for each entity or row, in order."""
        return await asyncio.to_thread(answer, shelf, store, model, body)

    app = build_fastapi("Sunloom tabular models", "/predict")
    app.include_router(router)
    return app


def answer(shelf: ModelShelf, store: OnlineStore, ref: str, body: PredictionRequest) -> Predictions:
    """Predict for entities or rows.

    Raises:
        NotFoundError: Unknown model or feature set.
        RequestError: No feature set holds what the model needs.
        DataError: A row lacks a feature.
    """
    version, model = shelf.find(ref)
    if body.rows is not None:
        given = [Prediction.model_validate(one) for one in predictions(model, body.rows)]
        return Predictions(model=version.ref, predictions=given)
    name = body.feature_set or _feature_set(version, model, store)
    made = _for_entities(model, store, name, body.entity_ids or [])
    return Predictions(model=version.ref, predictions=made)


def _for_entities(
    model: TabularModel, store: OnlineStore, name: str, ids: Sequence[EntityId]
) -> list[Prediction]:
    records = store.read(name, ids, features=list(model.feature_names))
    found = [record for record in records if record is not None]
    made = iter(predictions(model, found) if found else [])
    return [_prediction(one, record, made) for one, record in zip(ids, records, strict=True)]


def _prediction(entity: EntityId, record: Mapping[str, Any] | None, made: Any) -> Prediction:
    if record is None:
        return Prediction(entity_id=entity, found=False, probability=None, prediction=None)
    return Prediction.model_validate({**next(made), "entity_id": entity})


def _feature_set(version: ModelVersion, model: TabularModel, store: OnlineStore) -> str:
    """The set that the model was trained on, or the only one that has all its features."""
    for record in (version.lineage, model.about):
        if isinstance(record.get("feature_set"), str):
            return str(record["feature_set"])
    needed = set(model.feature_names)
    fitting = [one for one in store.feature_sets() if needed <= set(store.schema(one).names)]
    if len(fitting) != 1:
        raise RequestError(
            f"{version.ref} needs features that {'several sets' if fitting else 'no set'} hold.",
            f"Name one in feature_set: {', '.join(fitting or store.feature_sets())}",
            "feature_set",
        )
    return fitting[0]
