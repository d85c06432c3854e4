"""What the chat template shows of the tools' schemas."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sunloom.llm.tokenizer import CHAT_TEMPLATE
from sunloom_retail.base_model import FOLDER


def show(properties: dict[str, Any], **more: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    parameters = {"type": "object", "properties": properties, **more}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    text = environment.from_string(CHAT_TEMPLATE).render(messages=[], tools=[tool])
    return text.removeprefix("<|tools|>f(").removesuffix(")<|end|>")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # Types as such are shown as the models were trained on them.
        ({"type": "string"}, "string"),
        ({"type": "array", "items": {"type": "string"}}, "array"),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, "object"),
        ({"type": "number", "description": "How much.", "minimum": 0}, "number"),
        ({"type": ["integer", "null"]}, "integer|null"),
        ({"type": "string", "enum": ["day", "week"]}, '"day"|"week"'),
        ({"enum": [1, None, "<|user|>"]}, '1|null|"< |user|>"'),
        ({"const": "fixed"}, '"fixed"'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, "integer|null"),
        ({"oneOf": [{"enum": ["a"]}, {"anyOf": [{"type": "array"}, {}]}]}, '"a"|array|any'),
        ({"$ref": "#/$defs/Period"}, '"day"|"week"'),
        ({"allOf": [{"$ref": "#/$defs/Period"}]}, '"day"|"week"'),
        ({"$ref": "#/$defs/Endless"}, "any"),
        ({"$ref": "#/$defs/nowhere"}, "any"),
        ({"properties": {}}, "object"),
        ({"items": {}}, "array"),
        ({}, "any"),
        # Whatever a client may send of them renders.
        ({"$ref": 1, "enum": 2, "anyOf": 3, "type": 4}, "any"),
        ({"anyOf": [True]}, "any"),
        (True, "any"),
    ],
)  # fmt: skip
def test_a_parameter_is_shown_with_its_types(schema: Any, text: str) -> None:
    definitions = {"Period": {"enum": ["day", "week"]}, "Endless": {"$ref": "#/$defs/Endless"}}
    shown = show({"a": {"type": "integer"}, "b": schema}, **{"$defs": definitions})
    assert shown == f"a: integer, b: {text}"


def test_the_shipped_model_has_this_template() -> None:
    file = FOLDER / "chat_template.jinja"
    assert file.read_text() == CHAT_TEMPLATE
    record = json.loads((FOLDER / "record.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["sha256"]["chat_template.jinja"] == digest
