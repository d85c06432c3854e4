"""What a request to the language model may ask, and how much."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sunloom.config.request_limits import LlmLimits
from sunloom.errors import RequestError
from sunloom.serving.apps.llm.request_checks import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Work,
    check_request,
    limit_answer,
)

LIMITS = LlmLimits(max_sequences=16)
MESSAGES = [{"role": "user", "content": "a"}]


def check(path: str, **fields: Any) -> Work:
    content = {"messages": MESSAGES} if path == CHAT else {"prompt": "a"}
    return check_request(path, {"model": "a", **content, **fields}, LIMITS, 1024)


def refuse(path: str, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check(path, **fields)
    return caught.value


def nested_schema(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def tool(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


@pytest.mark.parametrize(
    ("path", "fields", "sequences", "prompt_tokens", "total_tokens"),
    [
        # The text, two marks and the default of 16 tokens.
        (COMPLETIONS, {}, 1, 3, 19),
        (COMPLETIONS, {"prompt": ["ä", "bcd"], "n": 3, "max_tokens": 5}, 6, 9, 39),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 1}, 1, 5, 6),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 1}, 2, 7, 9),
        # No prompt is longer than the model.
        (COMPLETIONS, {"prompt": "a" * 5000, "max_tokens": 1}, 1, 1024, 1025),
        # Field names and texts of a message, the template's marks, and the longest answer.
        (CHAT, {}, 1, 80, 1104),
        (CHAT, {"max_tokens": 100, "max_completion_tokens": 7}, 1, 80, 87),
        (EMBEDDINGS, {"input": ["a"] * 200}, 16, 600, 600),
    ],
)
def test_the_work_of_a_request(
    path: str, fields: dict[str, Any], sequences: int, prompt_tokens: int, total_tokens: int
) -> None:
    work = check(path, **fields)
    assert (work.sequences, work.prompt_tokens) == (sequences, prompt_tokens)
    assert work.total_tokens == total_tokens


def test_shortened_answers_keep_the_field_of_the_request() -> None:
    assert limit_answer(CHAT, {"max_completion_tokens": 9}, 3) == {"max_completion_tokens": 3}
    assert limit_answer(CHAT, {"max_tokens": 9}, 3) == {"max_tokens": 3}
    assert limit_answer(COMPLETIONS, {}, 3) == {"max_tokens": 3}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"stream": "false"}, "stream"),
        (CHAT, {"stream": 1}, "stream"),
        (CHAT, {"n": "600"}, "n"),
        (CHAT, {"n": 2.0}, "n"),
        (CHAT, {"n": True}, "n"),
        (CHAT, {"max_tokens": "9"}, "max_tokens"),
        (CHAT, {"cache_salt": 1}, "cache_salt"),
        (CHAT, {"n": 600}, "n"),
        (CHAT, {"n": 17}, "n"),
        (COMPLETIONS, {"prompt": ["a"] * 300}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 9, "n": 2}, "n"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": "a" * 70_000}, "prompt"),
        (EMBEDDINGS, {"input": ["a"] * 257}, "input"),
        (CHAT, {"stop": ["a"] * 1025}, "stop"),
        (CHAT, {"priority": -5}, "priority"),
        (CHAT, {"chat_template": "{{ 1 }}"}, "chat_template"),
        (CHAT, {"use_beam_search": True}, "use_beam_search"),
        (COMPLETIONS, {"prompt_embeds": "AAAA"}, "prompt_embeds"),
        (CHAT, {"prompt_logprobs": 0}, "prompt_logprobs"),
        (COMPLETIONS, {"echo": True, "logprobs": 0}, "echo"),
        (COMPLETIONS, {"echo": True, "logprobs": True}, "echo"),
        (COMPLETIONS, {"echo": True, "top_logprobs": 2}, "echo"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "hi"}, "messages"),
        (CHAT, {"messages": [None]}, "messages.0"),
        (CHAT, {"messages": [*MESSAGES, {"role": "user"}]}, "messages.1.content"),
        (CHAT, {"tools": {}}, "tools"),
        (CHAT, {"tools": [tool()] * 129}, "tools"),
        (CHAT, {"tools": [{}]}, "tools.0.function"),
        (
            CHAT,
            {"tools": [tool(properties={"x": True})]},
            "tools.0.function.parameters.properties.x",
        ),
        (CHAT, {"tools": [tool(**nested_schema(16))]}, "tools.0.function.parameters"),
        (CHAT, {"tools": [tool(description="a" * 9000)] * 8}, "tools"),
        (
            CHAT,
            {"tools": [tool(properties={f"a{i}": {} for i in range(255)})]},
            "tools.0.function.parameters",
        ),
        (CHAT, {"tools": [tool(properties={f"a{i}": {} for i in range(99)})] * 11}, "tools"),
        (CHAT, {"response_format": "json"}, "response_format"),
        (CHAT, {"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (CHAT, {"structured_outputs": {"regex": "(a{1,100}){1,100}"}}, "structured_outputs"),
        (CHAT, {"structured_outputs": {"regex": "a{,99999999999999999999}"}}, "structured_outputs"),
        (CHAT, {"structured_outputs": {"choice": ["a" * 20_000]}}, "structured_outputs"),
        (
            CHAT,
            {"structured_outputs": {"json": json.dumps(nested_schema(250))}},
            "structured_outputs.json",
        ),
    ],
)  # fmt: skip
def test_refused(path: str, fields: dict[str, Any], param: str) -> None:
    assert refuse(path, **fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"echo": True},
        {"prompt_logprobs": None},
        {"stream": None, "n": None, "use_beam_search": False, "priority": 0},
        {"max_tokens": 100_000},
        {"messages": [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": []}]},
        {"tools": [tool(**nested_schema(14))]},
        {"tools": [tool(properties={f"a{i}": {} for i in range(99)})] * 10},
        {"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}},
    ],
)
def test_allowed(fields: dict[str, Any]) -> None:
    check(CHAT, **fields)


def test_many_long_answers_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(RequestError, match="may generate 32000 tokens") as caught:
        check_request(COMPLETIONS, {"prompt": "a", "n": 16, "max_tokens": 2000}, LIMITS, 4096)
    assert caught.value.hint == "Set max_tokens to at most 1024, or ask for fewer answers."


@pytest.mark.parametrize(("role", "close"), [("usr", "'user'"), ("human", None), (None, None)])
def test_an_unknown_role_is_refused_with_the_valid_ones(role: Any, close: str | None) -> None:
    error = refuse(CHAT, messages=[*MESSAGES, {"role": role, "content": "a"}])
    assert error.param == "messages.1.role"
    assert error.message == f"messages.1 has the role {role!r}."
    assert error.hint.endswith("Valid: system, developer, user, assistant, tool.")
    assert close is None or f"Did you mean {close}?" in error.hint


def test_a_deep_schema_is_refused_at_once() -> None:
    # 15 kB, for which xgrammar would hold the replica's loop for a minute.
    schema = nested_schema(250)
    began = time.perf_counter()
    error = refuse(CHAT, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert error.message == "response_format is nested more than 32 levels deep."
    assert time.perf_counter() - began < 0.1
