"""Tools that ask the gateway: features of an entity, and predictions of tabular models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import Field, field_validator

from sunloom.agents.tools.tool import Parameters, Tool, ToolCall
from sunloom.config.agents import AgentSpec


class FeaturesArguments(Parameters):
    """Which entity of which feature set."""

    feature_set: str
    entity_id: int


class FeaturesOptions(Parameters):
    """What the model gets to see of the answer."""

    features: dict[str, str] = Field(default_factory=dict)
    """Name that the model sees to the feature's own, in this order; all as they are when empty.
    A list stands for names that stay the same."""
    whole: list[str] = Field(default_factory=list)
    """Shown names whose numbers are cut to whole ones, such as days."""
    decimals: int = Field(default=4, ge=0, le=12)
    """Decimals that other numbers are rounded to."""

    @field_validator("features", mode="before")
    @classmethod
    def _accept_list(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    def show(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """What the model gets to see of an entity's features; absent ones are left out."""
        names = self.features or {name: name for name in features}
        return {
            shown: self._shown(shown, features[name])
            for shown, name in names.items()
            if name in features
        }

    def _shown(self, name: str, value: Any) -> Any:
        if name in self.whole and isinstance(value, float) and math.isfinite(value):
            return int(value)
        return _rounded(value, self.decimals)


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
    return {
        "feature_set": answer["feature_set"],
        "entity_id": wanted.entity_id,
        "found": answer["found"],
        "features": options.show(answer["features"]) if answer["found"] else {},
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


def features_shown(spec: AgentSpec, features: Mapping[str, Any]) -> dict[str, Any]:
    """An entity's features as this agent's model sees them; all of them without the tool."""
    tool = next((tool for tool in spec.tools if tool.name == GET_FEATURES.name), None)
    return FeaturesOptions.model_validate(tool.options if tool else {}).show(features)
