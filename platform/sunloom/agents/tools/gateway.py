"""Tools that ask the gateway: features of an entity, and predictions of tabular models."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pydantic import Field

from sunloom.agents.tools.tool import Parameters, Tool, ToolCall


class FeaturesArguments(Parameters):
    """Which entity of which feature set."""

    feature_set: str
    entity_id: int


class FeaturesOptions(Parameters):
    """What the model gets to see of the answer."""

    features: list[str] = Field(default_factory=list)
    """Features to hand on, in this order; all when empty."""
    decimals: int = Field(default=4, ge=0, le=12)
    """Decimals that numbers are rounded to."""


class PredictArguments(Parameters):
    """Which model for which entity."""

    model: str
    entity_id: int


class PredictOptions(Parameters):
    """What the model gets to see of the answer."""

    decimals: int = Field(default=4, ge=0, le=12)
    """Decimals that numbers are rounded to."""


async def _get_features(call: ToolCall[FeaturesArguments, FeaturesOptions]) -> dict[str, Any]:
    wanted, options = call.arguments, call.options
    path = f"/features/{quote(wanted.feature_set, safe='')}"
    answer = await call.gateway.get(path, {"entity_id": wanted.entity_id})
    held = answer["features"] if answer["found"] else {}
    names = [name for name in options.features or held if name in held]
    return {
        "feature_set": answer["feature_set"],
        "entity_id": wanted.entity_id,
        "found": answer["found"],
        "features": {name: _rounded(held[name], options.decimals) for name in names},
    }


async def _predict(call: ToolCall[PredictArguments, PredictOptions]) -> dict[str, Any]:
    wanted = call.arguments
    path = f"/predict/{quote(wanted.model, safe='')}"
    answer = await call.gateway.post(path, {"entity_ids": [wanted.entity_id]}, call.key)
    found = answer["predictions"][0]
    shared = {"model": answer["model"], "entity_id": wanted.entity_id}
    if found.get("prediction") is None:
        return {**shared, "found": False}
    return {
        **shared,
        "probability": _rounded(found["probability"], call.options.decimals),
        "prediction": found["prediction"],
    }


def _rounded(value: Any, decimals: int) -> Any:
    return round(value, decimals) if isinstance(value, float) else value


GET_FEATURES = Tool(
    name="get_features",
    description="Read the latest features of an entity.",
    parameters=FeaturesArguments,
    function=_get_features,
    scopes=frozenset({"features"}),
    options=FeaturesOptions,
)

PREDICT = Tool(
    name="predict",
    description="Predict for an entity with a registered model.",
    parameters=PredictArguments,
    function=_predict,
    scopes=frozenset({"models"}),
    options=PredictOptions,
)
