"""Conversations: disjoint, deterministic, and shaped as an OpenAI client sends them."""

from __future__ import annotations

import json
import re

import pytest

from sunloom.core.plugins import load_plugin
from sunloom.llm.conversations import Conversation, ConversationSource, GenericConversations
from sunloom_retail import wordings
from sunloom_retail.conversations import (
    KINDS,
    PREDICTED,
    RetailConversations,
    RetailTask,
    is_held_out_customer,
    is_held_out_wording,
)

RETAIL_WORDS = ("customer", "voucher", "purchase", "repurchase", "shopper", "lapse", "predict")


def _question(conversation: Conversation) -> str:
    user = next(m for m in conversation.messages if m["role"] == "user")
    return str(user["content"]).removeprefix("\nCurrent Task: ")


def _customer(conversation: Conversation) -> int:
    for message in conversation.messages:
        for call in message.get("tool_calls") or ():
            return int(json.loads(call["function"]["arguments"])["entity_id"])
    raise AssertionError("no call")


@pytest.mark.parametrize("name", ["generic", "retail"])
def test_sources_come_in_by_entry_point_and_repeat_themselves(name: str) -> None:
    source = load_plugin("sunloom.conversations", name)()
    assert isinstance(source, ConversationSource)
    assert source.train(20, 3) == source.train(20, 3)
    assert source.train(20, 3) != source.train(20, 4)
    assert source.train(5, 3) == source.train(20, 3)[:5]


@pytest.mark.parametrize("source", [GenericConversations(), RetailConversations()])
def test_every_call_names_an_offered_tool_and_all_its_parameters(
    source: ConversationSource,
) -> None:
    for conversation in source.train(300, 0):
        offered = {t["function"]["name"]: t["function"]["parameters"] for t in conversation.tools}
        for message in conversation.messages:
            for call in message.get("tool_calls") or ():
                schema = offered[call["function"]["name"]]
                arguments = json.loads(call["function"]["arguments"])
                assert list(arguments) == schema["required"]
                for key, value in arguments.items():
                    kind = schema["properties"][key]["type"]
                    assert isinstance(value, {"integer": int, "string": str}[kind])
        assert conversation.messages[-1]["role"] == "assistant"


def test_both_engines_forms_are_in_the_training_data() -> None:
    for source in (GenericConversations(), RetailConversations()):
        conversations = source.train(300, 0)
        crewai = [c for c in conversations if "Your personal goal is:" in str(c.messages[0])]
        prefixed = [c for c in conversations if "-" in c.tools[0]["function"]["name"]]
        assert 60 < len(crewai) < 240
        assert 60 < len(prefixed) < 180


def test_generic_conversations_know_nothing_of_retail() -> None:
    text = json.dumps([c.messages for c in GenericConversations().train(2000, 0)]).lower()
    assert not [word for word in RETAIL_WORDS if re.search(rf"\b{word}\b", text)]


def test_retail_questions_are_disjoint_in_customers_and_wordings() -> None:
    source = RetailConversations()
    train, held_out = source.train(3000, 0), source.held_out(600, 0)
    assert not {_customer(c) for c in train} & {_customer(c) for c in held_out}
    train_wordings = {re.sub(r"\d+", "{id}", _question(c)) for c in train}
    held_out_wordings = {re.sub(r"\d+", "{id}", _question(c)) for c in held_out}
    assert not train_wordings & held_out_wordings
    assert len(train_wordings) > 1000
    assert len(held_out_wordings) > 300
    assert all(is_held_out_customer(_customer(c)) for c in held_out)


def test_every_kind_has_wordings_of_both_sides() -> None:
    assert sum(wordings.core_count(kind) for kind in KINDS) >= 70
    tasks = RetailConversations().tasks(len(KINDS) * 3, 1)
    assert {task.kind for task in tasks} == set(KINDS)
    assert tasks[0].kind == "voucher"
    patterns = [t.question.replace(str(t.customer_id), "{id}", 1) for t in tasks]
    assert all(is_held_out_wording(pattern) for pattern in patterns)


def test_tasks_ask_about_given_customers_only() -> None:
    known = [c for c in range(1, 3000) if is_held_out_customer(c)][:5]
    tasks = RetailConversations().tasks(20, 0, customers=[*known, 1_000_001])
    assert {task.customer_id for task in tasks} <= {*known, 1_000_001}


FEATURES = {"purchase_count": 12, "total_amount": 352.5, "recency_days": 45, "items": 31}


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_answer_is_right_and_others_are_not(kind: str) -> None:
    truth = {"prediction": "lapse"} if kind in PREDICTED else FEATURES
    task = RetailTask("?", 4711, kind)
    answer = task.expected_answer(truth)
    assert task.is_right(answer, truth)
    assert not task.is_right(answer.replace("4711", "4712"), truth)
    assert not task.is_right("", truth)
    if kind in PREDICTED:
        assert not task.is_right(answer, {"prediction": "return"})
        assert kind != "voucher" or not task.is_right(answer.replace("yes", "no"), truth)
    else:
        wrong = {key: value + 1 for key, value in FEATURES.items()}
        assert not task.is_right(answer, wrong)


def test_the_customers_own_number_is_no_evidence() -> None:
    task = RetailTask("?", 12, "purchases")
    assert not task.is_right("Customer 12 has made purchases.", FEATURES)
    assert task.is_right("Customer 12 has made 12 purchases.", FEATURES)
