"""SmolLM2 out of its package: a folder that transformers and our encoder read, and that talks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sunloom.config.llm import ModelConfig
from sunloom.core.model_registry import open_registry
from sunloom.errors import DependencyError
from sunloom.llm.base_models import resolve_model
from sunloom.llm.conversations import Conversation
from sunloom.llm.encoding import encode, render
from sunloom.llm.evaluation import greedy
from sunloom.llm.models import load_model, load_tokenizer
from sunloom.llm.smollm2 import NAME, load_smollm2
from sunloom_retail.conversations import RetailConversations

pytestmark = pytest.mark.integration


def test_smollm2_is_registered_encodes_tool_calls_and_speaks_english(settings: Any) -> None:
    try:
        load_smollm2()
    except DependencyError as error:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    registry = open_registry(settings)
    location, ref = resolve_model(ModelConfig(base_model=NAME), registry)
    assert ref == f"{NAME}@1"
    assert registry.get(ref).metrics["parameters"] == 134_515_008
    # Two bytes a parameter, the tied output layer stored once.
    assert (Path(location) / "model.safetensors").stat().st_size == pytest.approx(269e6, rel=0.01)
    assert "Apache License" in (Path(location) / "LICENSE").read_text()

    tokenizer = load_tokenizer(location)
    [conversation] = RetailConversations().train(1, 0)
    [row] = encode(tokenizer, [conversation], 512)
    function = conversation.messages[2]["tool_calls"][0]["function"]
    assert tokenizer.decode(row.ids[row.mask]) == (
        f'<tool_call>{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'
        f"</tool_call><|im_end|>\n{conversation.messages[-1]['content']}<|im_end|>\n"
    )
    question = {"role": "user", "content": "What is the capital of Japan?"}
    prompt = render(tokenizer, Conversation((question,)), prompt=True)
    generate = greedy(load_model(location).eval(), tokenizer, 12)
    assert generate([prompt]) == ["The capital of Japan is Tokyo."]
