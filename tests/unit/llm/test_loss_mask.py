"""Our loss mask beside the training templates of TRL, for every template that TRL ships twice.

A training twin marks what the assistant wrote with ``{% generation %}``; ours is found with the
original alone. Every byte is a token here, so that each boundary of characters is one of tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateError
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sunloom.llm.conversations import (
    Conversation,
    call_message,
    function_tool,
    result_message,
)
from sunloom.llm.encoding import encode_checked, render

trl = pytest.importorskip("trl", reason="pip install trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"
TWINS = sorted(
    path.name.removesuffix("_training.jinja")
    for path in FOLDER.glob("*_training.jinja")
    if (FOLDER / path.name.replace("_training", "")).exists()
)
TOOL = (function_tool("look", [("city", "string")], "Looks."),)


def say(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def call(*cities: str) -> dict[str, Any]:
    calls = [call_message("look", {"city": city}, city)["tool_calls"][0] for city in cities]
    return {"role": "assistant", "content": None, "tool_calls": calls}


CONVERSATIONS = {
    "one": Conversation((say("user", "Hi there"), say("assistant", "Hello you."))),
    "many": Conversation(
        (
            say("user", "Hi"),
            say("assistant", "Hello."),
            say("user", "And?"),
            say("assistant", "Fine."),
        )
    ),
    "system": Conversation(
        (say("system", "Be kind."), say("user", "Hi"), say("assistant", "Hello."))
    ),
    "tools": Conversation(
        (
            say("user", "Weather in Rome?"),
            call("Rome"),
            result_message("look", '{"t": 20}', "Rome"),
            say("assistant", "20 degrees."),
        ),
        TOOL,
    ),
    "two_calls": Conversation(
        (
            say("user", "Rome, Oslo?"),
            call("Rome", "Oslo"),
            result_message("look", "20", "Rome"),
            result_message("look", "5", "Oslo"),
            say("assistant", "20 and 5."),
        ),
        TOOL,
    ),
}
EQUAL, AFTER_PROMPT, APART = "equal", "after the prompt", "a text for each answer"
REFUSED, BOTH_REFUSE = "refused", "refused by the original and the twin"
NO_TOOLS = {"tools": BOTH_REFUSE, "two_calls": BOTH_REFUSE}
# What differs from "the mask is the twin's, or less by what the served prompt already holds".
OTHERWISE: dict[str, dict[str, str]] = {
    "cohere": NO_TOOLS,
    "cohere2": NO_TOOLS,
    # It joins arguments to a text, and the server hands it values.
    "deepseekv3": {"tools": REFUSED, "two_calls": REFUSED},
    # The original goes on after a call with the mark of its result, which the twin leaves out.
    "diffusion_gemma": {"tools": "more", "two_calls": "more"},
    "gemma": {"system": BOTH_REFUSE, **NO_TOOLS},
    "gemma3": NO_TOOLS,
    # It writes no mark at the end of an answer; the twin changes the text to have one.
    "glm4moe": dict.fromkeys(CONVERSATIONS, APART),
    # Reasoning is dropped from an answer once a question follows.
    "gptoss": {"many": APART},
    "idefics3": NO_TOOLS,
    "llava_next": dict.fromkeys(CONVERSATIONS, BOTH_REFUSE),
    "qwen3": {"many": APART, "tools": APART, "two_calls": APART},
    "qwen3_5_nothink": {"many": APART},
    "qwen3_5_think": {"many": APART},
    "qwen3_6": {"many": APART},
    "smolvlm": NO_TOOLS,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **marks)


@pytest.mark.parametrize("name", TWINS)
def test_the_mask_is_that_of_the_training_template(name: str, tokenizer: Any) -> None:
    original = (FOLDER / f"{name}.jinja").read_text()
    twin = (FOLDER / f"{name}_training.jinja").read_text()
    expected = OTHERWISE.get(name, {})
    for kind, conversation in CONVERSATIONS.items():
        tokenizer.chat_template = original
        found = compare(tokenizer, conversation, twin)
        if kind in expected:
            assert found == expected[kind], kind
        else:
            assert found in (EQUAL, AFTER_PROMPT), kind


Peer = tuple[list[int], NDArray[np.bool_]]


def compare(tokenizer: Any, conversation: Conversation, twin: str) -> str:
    ours = encode_checked(tokenizer, [conversation], 100_000)
    peer = mask_of(tokenizer, conversation, twin)
    if not ours.rows:
        return REFUSED if peer else BOTH_REFUSE
    answers = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
    if len(ours.rows) > 1 or (ours.rows[0].mask[-1] and ends_open(tokenizer, conversation)):
        # Each text is the conversation up to its answer, of which the answer alone is learned.
        assert len(ours.rows) == len(answers)
        for row, end in zip(ours.rows, answers, strict=True):
            until = render(tokenizer, conversation.head(end + 1))
            assert tokenizer.decode(row.ids).startswith(until.rstrip())
            learned = tokenizer.decode(row.ids[row.mask])
            assert (conversation.messages[end]["content"] or "Rome") in learned
            assert row.mask[-1]
            assert np.all(np.diff(np.flatnonzero(row.mask)) == 1)
        return APART
    row = ours.rows[0]
    assert tokenizer.decode(row.ids) == render(tokenizer, conversation)
    assert peer is not None
    ids, mask = peer
    assert ids == row.ids.tolist()
    more = np.flatnonzero(row.mask & ~mask)
    less = np.flatnonzero(mask & ~row.mask)
    if len(more):
        return "more"
    # What ours leaves out stands right before an answer: the served prompt ends with it.
    for index in less:
        ahead = index + np.flatnonzero(~(mask & ~row.mask)[index:])[0]
        assert row.mask[ahead], tokenizer.decode(ids[index:ahead])
    return AFTER_PROMPT if len(less) else EQUAL


def ends_open(tokenizer: Any, conversation: Conversation) -> bool:
    content = str(conversation.messages[-1]["content"])
    return render(tokenizer, conversation).rstrip().endswith(content)


def mask_of(tokenizer: Any, conversation: Conversation, twin: str) -> Peer | None:
    try:
        found = tokenizer.apply_chat_template(
            [served(message) for message in conversation.messages],
            tools=list(conversation.tools) or None,
            chat_template=twin,
            return_assistant_tokens_mask=True,
            return_dict=True,
            tokenize=True,
        )
    except (TemplateError, TypeError):
        return None
    return found["input_ids"], np.asarray(found["assistant_masks"], dtype=bool)


def served(message: dict[str, Any]) -> dict[str, Any]:
    """As vLLM hands it to a template."""
    calls = [
        one
        | {"function": one["function"] | {"arguments": json.loads(one["function"]["arguments"])}}
        for one in message.get("tool_calls", ())
    ]
    plain = message | {"content": message["content"] or ""}
    return plain | {"tool_calls": calls} if calls else plain


def test_the_share_of_templates_that_work() -> None:
    """Figures of the documentation."""
    outcomes = Counter(
        OTHERWISE.get(name, {}).get(kind, EQUAL) for name in TWINS for kind in CONVERSATIONS
    )
    assert len(TWINS) == 31
    assert outcomes == {EQUAL: 121, BOTH_REFUSE: 18, APART: 12, REFUSED: 2, "more": 2}
