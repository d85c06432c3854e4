"""Tools: schemas, arguments, hooks that fail closed, results as the model reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sunloom.agents.gateway_client import Endpoint, GatewayClient
from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore
from sunloom.agents.tools.gateway import GET_FEATURES, PREDICT, visible_features
from sunloom.agents.tools.tool import NoOptions, Parameters, Tool, ToolCall
from sunloom.agents.tools.toolbox import (
    BoundTool,
    Hook,
    PendingCall,
    Toolbox,
    bind_tools,
    needed_scopes,
)
from sunloom.config.agents import AgentSpec, ToolConfig
from sunloom.core.database import Database
from sunloom.errors import AgentError, ConfigError, NotFoundError
from tests.unit.agents import scripted

CONFIG = (
    ToolConfig(
        name="get_features",
        options={"features": ["recency_days", "total_amount", "absent"], "decimals": 2},
    ),
    ToolConfig(name="predict", options={"decimals": 2}),
)


class _Boxed:
    """Tool calls against a scripted gateway, with the events that they emit."""

    def __init__(self, folder: Path, url: str, tools: Any, hooks: Sequence[Hook] = ()) -> None:
        store = AgentStore(Database(f"sqlite:///{folder / 'agents.db'}"))
        agent = store.create_agent(AgentSpec(name="one"), "acme")
        self.task_id = store.add_task(agent.id, "task").id
        self.store, self.url, self.tools, self.hooks = store, url, tools, hooks
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, name: str, **arguments: Any) -> Any:
        return json.loads(asyncio.run(self._call(name, arguments)))

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        async def emit(event: str, data: dict[str, Any]) -> None:
            self.events.append((event, data))

        gateway = GatewayClient(Endpoint(self.url, "KEY"), timeout_s=5)
        journal = Journal(self.store, self.task_id)
        try:
            toolbox = Toolbox(self.tools, gateway, journal, emit, self.hooks)
            return await toolbox.call(name, json.dumps(arguments))
        finally:
            await gateway.close()


def test_schemas_keep_order_types_and_no_titles() -> None:
    assert GET_FEATURES.schema() == {
        "type": "object",
        "properties": {"feature_set": {"type": "string"}, "entity_id": {"type": "integer"}},
        "required": ["feature_set", "entity_id"],
        "additionalProperties": False,
    }
    assert list(PREDICT.schema()["properties"]) == ["model", "entity_id"]


def test_unknown_tools_and_options_are_refused_when_an_agent_is_made() -> None:
    with pytest.raises(NotFoundError) as missing:
        bind_tools([ToolConfig(name="get_feature")])
    assert "Did you mean 'get_features'?" in missing.value.hint
    with pytest.raises(ConfigError, match=r"predict.*decimal: Extra inputs"):
        bind_tools([ToolConfig(name="predict", options={"decimal": 2})])
    assert needed_scopes(bind_tools(CONFIG).values()) == {"features", "models"}


def test_results_are_compact_and_hold_the_chosen_features_in_order(tmp_path: Path) -> None:
    with scripted.serve() as gateway:
        box = _Boxed(tmp_path, gateway.url, bind_tools(CONFIG))
        found = box.call("get_features", feature_set="customer", entity_id=4711)
        unknown = box.call("get_features", feature_set="customer", entity_id=99_999)
        predicted = box.call("predict", model="repurchase", entity_id=4711)
    assert found == {
        "feature_set": "customer",
        "entity_id": 4711,
        "found": True,
        "features": {"recency_days": 45, "total_amount": 352.17},
    }
    assert list(found["features"]) == ["recency_days", "total_amount"]
    assert unknown["found"] is False
    assert unknown["features"] == {}
    assert predicted == {
        "model": "repurchase@1",
        "entity_id": 4711,
        "probability": 0.12,
        "prediction": "lapse",
    }
    assert [event for event, _ in box.events] == ["tool_call"] * 3


def test_features_are_renamed_truncated_and_rounded_as_the_recipe_says() -> None:
    tool = {
        "name": "get_features",
        "options": {"features": {"days": "d", "spent": "s", "n": "n", "x": "x"}, "whole": ["days"]},
    }
    spec = AgentSpec.model_validate({"name": "one", "tools": [tool]})
    features = {"s": 352.17499, "d": 45.9, "n": 3, "other": 1}
    assert visible_features(spec, features) == {"days": 45, "spent": 352.175, "n": 3}
    assert visible_features(spec, {"d": None}) == {"days": None}
    assert visible_features(AgentSpec(name="one"), features)["d"] == 45.9


def test_errors_that_the_model_can_correct_are_returned_to_it(tmp_path: Path) -> None:
    with scripted.serve() as gateway:
        box = _Boxed(tmp_path, gateway.url, bind_tools(CONFIG))
        wrong_name = box.call("get_feature", feature_set="customer", entity_id=1)
        wrong_type = box.call("predict", model="repurchase", entity_id="many")
        misspelt = box.call("predict", model="repurchase", entity=1)
        no_set = box.call("get_features", feature_set="shop", entity_id=1)
        assert gateway.paths("/predict/") == [], "nothing is sent with wrong arguments"
    assert wrong_name == {"error": "There is no tool 'get_feature'. Known: get_features, predict."}
    assert wrong_type["error"].startswith("Wrong arguments for predict: entity_id: Input should")
    assert misspelt["error"].startswith("Wrong arguments for predict: entity")
    assert no_set == {"error": "There is no feature set 'shop'."}


def test_a_hook_that_breaks_refuses_the_call(tmp_path: Path) -> None:
    async def broken(call: PendingCall) -> None:
        raise KeyError(call.arguments["entity_id"])

    with scripted.serve() as gateway:
        box = _Boxed(tmp_path, gateway.url, bind_tools(CONFIG), [broken])
        refused = box.call("predict", model="repurchase", entity_id=7)
        assert gateway.requests == []
    assert refused == {"error": "The call was refused: 7"}


def test_a_call_is_replayed_not_repeated(tmp_path: Path) -> None:
    with scripted.serve() as gateway:
        box = _Boxed(tmp_path, gateway.url, bind_tools(CONFIG))
        first = box.call("predict", model="repurchase", entity_id=7)
        again = box.call("predict", model="repurchase", entity_id=7)
        keys = [headers["idempotency-key"] for _, _, headers in gateway.requests]
    assert first == again
    assert keys == [f"{box.task_id}:1"], "the second attempt read the journal"
    assert len(box.events) == 1


def test_a_gateway_that_is_away_ends_the_task_and_is_no_answer_for_the_model(
    tmp_path: Path,
) -> None:
    box = _Boxed(tmp_path, "http://127.0.0.1:9", bind_tools(CONFIG))
    with pytest.raises(AgentError, match="got no response"):
        box.call("predict", model="repurchase", entity_id=7)


def test_a_tool_that_breaks_is_reported_with_its_name(tmp_path: Path) -> None:
    async def work(call: ToolCall[Parameters, NoOptions]) -> Any:
        raise ZeroDivisionError("by zero")

    tool = Tool(name="breaks", description="", parameters=Parameters, function=work)
    box = _Boxed(tmp_path, "http://127.0.0.1:9", {"breaks": BoundTool(tool, NoOptions())})
    assert box.call("breaks") == {"error": "breaks failed: ZeroDivisionError: by zero"}


def test_an_expired_key_waits_for_the_next_one() -> None:
    async def drive(url: str) -> Any:
        gateway = GatewayClient(Endpoint(url, "OLD"), timeout_s=5, renewal_wait_s=5)
        request = asyncio.create_task(gateway.get("/features/customer", {"entity_id": 1}))
        await asyncio.sleep(0.3)
        assert not request.done()
        await gateway.renew(Endpoint(url, "NEW"))
        try:
            return await request
        finally:
            await gateway.close()

    with scripted.serve() as gateway:
        gateway.expired = {"OLD"}
        assert asyncio.run(drive(gateway.url))["found"] is True
        sent = [headers["authorization"] for _, _, headers in gateway.requests]
    assert sent == ["Bearer OLD", "Bearer NEW"]


def test_without_a_new_key_the_task_fails() -> None:
    async def drive(url: str) -> Any:
        gateway = GatewayClient(Endpoint(url, "OLD"), timeout_s=5, renewal_wait_s=0.1)
        try:
            return await gateway.get("/features/customer", {"entity_id": 1})
        finally:
            await gateway.close()

    with scripted.serve() as gateway, pytest.raises(AgentError, match="expired"):
        gateway.expired = {"OLD"}
        asyncio.run(drive(gateway.url))
