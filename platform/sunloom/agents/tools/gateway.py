"""Tools that call the gateway: features of an entity, and predictions of tabular models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import Field, field_validator

from sunloom.agents.tools.tool import Parameters, Tool, ToolCall
from sunloom.config.agents import AgentSpec


class FeaturesArguments(Parameters):
    """Feature set and entity to read."""

    feature_set: str
    entity_id: int


class FeaturesOptions(Parameters):
    """How the result is shown to the model."""

    features: dict[str, str] = Field(default_factory=dict)
    """Names for the model, each with the feature's own name, in this order; all features if empty.
    A list keeps the features' own names."""
    whole: list[str] = Field(default_factory=list)
    """Names for the model whose numbers are truncated to integers, such as days."""
    decimals: int = Field(default=4, ge=0, le=12)
    """Decimals that other numbers are rounded to."""

    @field_validator("features", mode="before")
    @classmethod
    def _accept_list(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    def visible(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """The features that the model sees; those that the entity lacks are left out."""
        names = self.features or {name: name for name in features}
        visible = {}
        for name, feature in names.items():
            if feature in features:
                value = features[feature]
                # int() raises for NaN and infinity.
                is_whole = name in self.whole and isinstance(value, float) and math.isfinite(value)
                visible[name] = int(value) if is_whole else _round(value, self.decimals)
        return visible


class PredictArguments(Parameters):
    """Model and entity of a prediction."""

    model: str
    entity_id: int


class PredictOptions(Parameters):
    """How the result is shown to the model."""

    decimals: int = Field(default=4, ge=0, le=12)
    """Decimals that numbers are rounded to."""


@dataclass(frozen=True)
class EntityFeatures:
    """Result of ``get_features``; an unknown entity has no features."""

    feature_set: str
    entity_id: int
    found: bool
    features: dict[str, Any]


@dataclass(frozen=True)
class EntityPrediction:
    """Result of ``predict``."""

    model: str
    entity_id: int
    probability: float
    prediction: str


@dataclass(frozen=True)
class UnknownEntity:
    """Result of ``predict`` for an entity that the online store does not know."""

    model: str
    entity_id: int
    found: bool = False


async def _get_features(call: ToolCall[FeaturesArguments, FeaturesOptions]) -> EntityFeatures:
    arguments, options = call.arguments, call.options
    # Names come from the model: a slash must not lead to another route.
    path = f"/features/{quote(arguments.feature_set, safe='')}"
    response = await call.gateway.get(path, {"entity_id": arguments.entity_id})
    return EntityFeatures(
        feature_set=response["feature_set"],
        entity_id=arguments.entity_id,
        found=response["found"],
        features=options.visible(response["features"]) if response["found"] else {},
    )


async def _predict(
    call: ToolCall[PredictArguments, PredictOptions],
) -> EntityPrediction | UnknownEntity:
    arguments = call.arguments
    path = f"/predict/{quote(arguments.model, safe='')}"
    body = {"entity_ids": [arguments.entity_id]}
    response = await call.gateway.post(path, body, call.key)
    prediction = response["predictions"][0]
    if prediction.get("prediction") is None:
        return UnknownEntity(response["model"], arguments.entity_id)
    return EntityPrediction(
        model=response["model"],
        entity_id=arguments.entity_id,
        probability=_round(prediction["probability"], call.options.decimals),
        prediction=prediction["prediction"],
    )


def _round(value: Any, decimals: int) -> Any:
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


def visible_features(spec: AgentSpec, features: Mapping[str, Any]) -> dict[str, Any]:
    """An entity's features as this agent's model sees them; all of them without the tool."""
    tool = next((tool for tool in spec.tools if tool.name == GET_FEATURES.name), None)
    return FeaturesOptions.model_validate(tool.options if tool else {}).visible(features)
