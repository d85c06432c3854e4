"""Retail questions by composition: an opening, a core, a way to name the customer, a closing."""

from __future__ import annotations

import random

# Repeated entries, here and below, are drawn more often.
_WHO = (
    "customer {id}",
    "customer {id}",
    "customer {id}",
    "client {id}",
    "customer number {id}",
    "shopper {id}",
    "the customer {id}",
    "customer no. {id}",
)

# Cores that are questions take one kind of opening, cores after "whether" or "tell me" another.
_DIRECT = ("", "", "", "Please answer: ", "Quick question: ", "Hello, ", "A question: ", "Hi. ")
_INDIRECT = (
    "Tell me ",
    "Please tell me ",
    "Find out ",
    "Check ",
    "I want to know ",
    "Can you say ",
    "We need to know ",
    "Look up ",
)
_CLOSINGS = ("", "", "", " Thanks.", " Be brief.", " Answer in one sentence.", " Please.")

_CORES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "voucher": (
        (
            "should {who} get a voucher?",
            "should we send {who} a voucher?",
            "does {who} need a voucher?",
            "is a voucher right for {who}?",
            "would you give {who} a voucher?",
            "shall we offer {who} a voucher?",
            "is it wise to send a voucher to {who}?",
            "ought {who} to receive a voucher?",
            "do we give a voucher to {who}?",
        ),
        (
            "whether {who} should get a voucher.",
            "if we should send {who} a voucher.",
            "whether a voucher makes sense for {who}.",
            "if {who} needs a voucher.",
            "whether to offer a voucher to {who}.",
        ),
    ),
    "returns": (
        (
            "will {who} come back?",
            "will {who} buy again?",
            "will {who} return?",
            "is {who} coming back?",
            "do you expect {who} to buy again?",
            "is {who} going to return?",
            "can we expect {who} back?",
            "will we see {who} again?",
        ),
        (
            "whether {who} will come back.",
            "if {who} will buy again.",
            "whether {who} is going to return.",
            "if we will see {who} again.",
        ),
    ),
    "lapses": (
        (
            "will {who} lapse?",
            "is {who} about to lapse?",
            "are we losing {who}?",
            "will {who} stay away?",
            "is {who} going to lapse?",
            "will {who} leave us?",
            "is {who} at risk?",
            "do you expect {who} to lapse?",
        ),
        (
            "whether {who} will lapse.",
            "if we are losing {who}.",
            "whether {who} is at risk.",
            "if {who} is about to lapse.",
        ),
    ),
    "purchases": (
        (
            "how many purchases has {who} made?",
            "how often has {who} bought?",
            "what is the purchase count of {who}?",
            "how many orders did {who} place?",
            "how many times did {who} buy?",
            "how many purchases are there from {who}?",
        ),
        (
            "how many purchases {who} has made.",
            "how often {who} has bought.",
            "the number of purchases of {who}.",
            "the purchase count of {who}.",
            "how many times {who} bought.",
        ),
    ),
    "spending": (
        (
            "how much has {who} spent?",
            "how much money did {who} spend?",
            "what did {who} spend in total?",
            "what is the total amount of {who}?",
            "how many dollars has {who} spent?",
            "what is the total spending of {who}?",
        ),
        (
            "how much {who} has spent.",
            "the total spending of {who}.",
            "what {who} spent in total.",
            "the total amount of {who}.",
            "how many dollars {who} spent.",
        ),
    ),
    "recency": (
        (
            "when did {who} last buy?",
            "how long ago did {who} last buy?",
            "how many days since {who} last bought?",
            "when was {who} last seen?",
            "how recent is the last purchase of {who}?",
            "what is the recency of {who}?",
        ),
        (
            "when {who} last bought.",
            "how long ago {who} last bought.",
            "when {who} was last seen.",
            "how many days ago {who} last bought.",
            "the recency of {who}.",
        ),
    ),
    "items": (
        (
            "how many items has {who} bought?",
            "how many items did {who} take?",
            "what is the item count of {who}?",
            "how many products has {who} bought?",
            "how many items are there from {who}?",
        ),
        (
            "how many items {who} has bought.",
            "the number of items of {who}.",
            "how many products {who} bought.",
            "the item count of {who}.",
        ),
    ),
}

ROLES = (
    "Retail analyst",
    "Customer analyst",
    "Shop assistant",
    "Retail assistant",
    "Customer expert",
    "Data analyst",
    "Marketing analyst",
    "Sales helper",
)
GOALS = (
    "Answer questions about customers with the tools.",
    "Answer questions about customers with the tools",
    "Use the tools, then answer in one sentence.",
    "Help the shop with its customers.",
    "Answer the question.",
    "Decide who gets a voucher.",
    "Find out what customers do.",
    "Give short answers.",
    "Look up customers and answer.",
)
BACKSTORIES = (
    "You look up customers with the tools and answer in one sentence.",
    "You work for a music shop.",
    "You know the shop and its customers.",
    "You use the tools and answer briefly.",
    "You help the marketing team.",
    "You are careful and brief.",
    "You answer from the tools' results only.",
)
PLUGINS = (
    "tools",
    "tools",
    "Sunloom",
    "Tools",
    "sunloom",
    "Gateway",
    "Retail",
    "Shop",
    "Platform",
    "Features",
    "Plugin",
    "P",
)


def compose(rng: random.Random, kind: str) -> str:
    """A wording with ``{id}`` where the customer's number goes."""
    direct, indirect = _CORES[kind]
    core = rng.choice(direct + indirect)
    opening = rng.choice(_DIRECT if core in direct else _INDIRECT)
    sentence = opening + core.replace("{who}", rng.choice(_WHO))
    return sentence[:1].upper() + sentence[1:] + rng.choice(_CLOSINGS)


def core_count(kind: str) -> int:
    """How many cores a kind has."""
    return sum(len(cores) for cores in _CORES[kind])


FAILURES = (
    "There is no feature set 'customer' in the online store. There are none yet.",
    "There is no feature set 'customer'. Known: purchase.",
    "There is no model 'repurchase'. Known: none.",
    "The gateway did not answer in time.",
    "The gateway answered 503: the app is not ready.",
    "The call was refused: the key has expired.",
    "predict failed: ConnectError: connection refused",
    "get_features failed: ReadTimeout",
    "Wrong arguments: entity_id must be an integer.",
    "The key may make 60 requests a minute.",
)
"""What a tool says when it fails."""
