"""Retail questions that an agent answers with two tools, as conversations and as tasks.

Tool results as the model sees them are compact JSON (``json.dumps(..., separators=(",", ":"))``):

* ``get_features`` gives ``{"feature_set":"customer","entity_id":4711,"found":true,"features":
  {"recency_days":45,"purchase_count":12,"total_amount":352.17,"active_days":9,"items":31,
  "tenure_days":533}}``; an unknown customer has ``"found":false`` and no features.
* ``predict`` gives ``{"model":"repurchase@1","entity_id":4711,"probability":0.12,
  "prediction":"lapse"}``; an unknown customer has ``"found":false`` instead of the last two.
* A tool that failed gives ``{"error":"…"}``, and the answer says so.

The label stands beside the number because a small model copies a label and cannot compare; an
answer says the label before the verdict, which then follows from words already written.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sunloom.llm.conversations import (
    Conversation,
    Tool,
    call_message,
    crewai_system,
    engine_messages,
    function_tool,
    result_message,
)
from sunloom_retail import wordings

CUSTOMERS = 23_570
"""Customers of the CDNOW log are numbered from 1 to this."""

MODEL, FEATURE_SET = "repurchase", "customer"
SHOWN_FEATURES = (
    "recency_days",
    "purchase_count",
    "total_amount",
    "active_days",
    "items",
    "tenure_days",
)
PREDICTED = ("voucher", "returns", "lapses")

_SIGNATURES = {
    "get_features": (("feature_set", "string"), ("entity_id", "integer")),
    "predict": (("model", "string"), ("entity_id", "integer")),
}
_ANSWERS = {
    ("voucher", "lapse"): "Customer {id} is predicted to lapse, so yes, offer a voucher.",
    ("voucher", "return"): "Customer {id} is predicted to return, so no voucher is needed.",
}
_OUTCOME = "Customer {id} is predicted to {label}."
# The label for which the question is answered with yes; only a voucher's answer must say so.
_CONFIRMING = {"voucher": "lapse", "returns": "return", "lapses": "lapse"}
_COPIED = {
    "purchases": ("purchase_count", "Customer {id} has made {value} purchases."),
    "spending": ("total_amount", "Customer {id} has spent {value} dollars."),
    "recency": ("recency_days", "Customer {id} last bought {value} days ago."),
    "items": ("items", "Customer {id} has bought {value} items."),
}
KINDS = (*PREDICTED, *_COPIED)


@dataclass(frozen=True)
class RetailTask:
    """One question about one customer.

    Attributes:
        question: What the user asks.
        customer_id: Whom it is about.
        kind: One of ``KINDS``.
    """

    question: str
    customer_id: int
    kind: str

    def call(self) -> tuple[str, dict[str, Any]]:
        """The tool and the arguments that answer it."""
        if self.kind in PREDICTED:
            return "predict", {"model": MODEL, "entity_id": self.customer_id}
        return "get_features", {"feature_set": FEATURE_SET, "entity_id": self.customer_id}

    def expected_answer(self, truth: Mapping[str, Any]) -> str:
        """The sentence that answers it.

        Args:
            truth: ``{"prediction": ...}`` for the kinds that predict, else the features.
        """
        if self.kind in PREDICTED:
            label = str(truth["prediction"])
            sentence = _ANSWERS.get((self.kind, label), _OUTCOME)
            return sentence.format(id=self.customer_id, label=label)
        key, sentence = _COPIED[self.kind]
        return sentence.format(id=self.customer_id, value=json.dumps(truth[key]))

    def is_right(self, answer: str, truth: Mapping[str, Any]) -> bool:
        """Whether an answer names the customer and says what is true.

        Args:
            answer: The agent's answer.
            truth: As in ``expected_answer``.
        """
        # As numbers, because 352.10 and 352.1 are the same amount.
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", answer)]
        if self.customer_id not in numbers:
            return False
        if self.kind in PREDICTED:
            words = re.findall(r"[a-z]+", answer.lower())
            label = str(truth["prediction"])
            verdicts = set(words) & {"yes", "no"}
            expected = "yes" if label == _CONFIRMING[self.kind] else "no"
            is_consistent = verdicts == {expected} or (not verdicts and self.kind != "voucher")
            other = "return" if label == "lapse" else "lapse"
            return is_consistent and label in words and other not in words
        # Once: the customer's own number is no evidence, but a value may be equal to it.
        numbers.remove(self.customer_id)
        value = float(truth[_COPIED[self.kind][0]])
        # Half of the last decimal: the model sees values that are rounded to two.
        return any(abs(number - value) < 0.005 for number in numbers)


class RetailConversations:
    """Conversations about customers of the shop.

    Held-out questions share neither a customer nor a wording with training questions.
    """

    def train(self, n: int, seed: int) -> list[Conversation]:
        """``n`` conversations about training customers in training wordings."""
        return self._make(n, random.Random(f"retail-train-{seed}"), held_out=False)

    def held_out(self, n: int, seed: int) -> list[Conversation]:
        """``n`` conversations about held-out customers in held-out wordings."""
        return self._make(n, random.Random(f"retail-held-out-{seed}"), held_out=True)

    def tasks(self, n: int, seed: int, customers: Sequence[int] = ()) -> list[RetailTask]:
        """Held-out questions for an agent; the kinds take turns.

        Args:
            n: How many.
            seed: Seed of the choice.
            customers: Customers that exist; those held out are asked about, all numbers that
                the log may hold when empty.
        """
        rng = random.Random(f"retail-tasks-{seed}")
        pool = [c for c in customers or range(1, CUSTOMERS + 1) if is_held_out_customer(c)]
        return [_task(rng, KINDS[i % len(KINDS)], rng.choice(pool), True) for i in range(n)]

    def _make(self, n: int, rng: random.Random, *, held_out: bool) -> list[Conversation]:
        conversations = []
        for _ in range(n):
            task = _task(rng, rng.choice(KINDS), _customer(rng, held_out), held_out)
            conversations.append(_conversation(rng, task))
        return conversations


def is_held_out_customer(customer_id: int) -> bool:
    """Whether a customer is kept out of training."""
    # Not hash(), which Python salts anew in every process.
    return zlib.crc32(f"customer-{customer_id}".encode()) % 5 == _HELD_OUT_BUCKET


_HELD_OUT_BUCKET = 2


def is_held_out_wording(wording: str) -> bool:
    """Whether a wording is kept out of training."""
    return zlib.crc32(wording.encode()) % 4 == 0


def render_features(customer_id: int, features: Mapping[str, Any] | None) -> str:
    """``get_features``' result as the model sees it; None is an unknown customer."""
    known = features is not None
    body = {"feature_set": FEATURE_SET, "entity_id": customer_id, "found": known}
    return _compact({**body, "features": dict(features or {})})


def render_prediction(customer_id: int, probability: float | None, label: str = "") -> str:
    """``predict``'s result as the model sees it; None is an unknown customer."""
    body = {"model": f"{MODEL}@1", "entity_id": customer_id}
    if probability is None:
        return _compact({**body, "found": False})
    # As the agent's recipe rounds it.
    return _compact({**body, "probability": round(probability, 2), "prediction": label})


def _compact(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))


def _customer(rng: random.Random, held_out: bool) -> int:
    while True:
        # Small numbers are rare among uniform draws, and customers have them too.
        top = rng.choice((100, 1_000, 10_000, CUSTOMERS, CUSTOMERS, CUSTOMERS))
        customer_id = rng.randint(1, top)
        if not held_out and rng.random() < _REPETITIVE:
            # Numbers such as 11414 are hard to copy: what follows "14" is not always the same.
            digits = rng.sample("0123456789", 2)
            customer_id = int("".join(rng.choice(digits) for _ in range(rng.choice((3, 4, 5)))))
        if 1 <= customer_id <= CUSTOMERS and is_held_out_customer(customer_id) is held_out:
            return customer_id


_REPETITIVE = 0.3


def _task(rng: random.Random, kind: str, customer_id: int, held_out: bool) -> RetailTask:
    while True:
        wording = wordings.compose(rng, kind)
        if is_held_out_wording(wording) is held_out:
            return RetailTask(wording.replace("{id}", str(customer_id)), customer_id, kind)


def _conversation(rng: random.Random, task: RetailTask) -> Conversation:
    engine = rng.choice(("crewai", "crewai", "semantic_kernel", "semantic_kernel", "plain"))
    prefix = f"{rng.choice(wordings.PLUGINS)}-" if engine == "semantic_kernel" else ""
    tool, arguments = task.call()
    content, answer = _outcome(rng, task)
    opening = engine_messages(rng, engine, _system(rng, engine), task.question)
    return Conversation(
        (
            *opening,
            call_message(prefix + tool, arguments),
            result_message(prefix + tool, content),
            {"role": "assistant", "content": answer},
        ),
        _tools(rng, prefix),
    )


def _system(rng: random.Random, engine: str) -> str:
    role, goal, backstory = (
        rng.choice(pool) for pool in (wordings.ROLES, wordings.GOALS, wordings.BACKSTORIES)
    )
    # An agent's three texts reach either engine in the same form unless it has instructions.
    if engine == "crewai" or rng.random() < 0.5:
        return crewai_system(role, backstory, goal)
    return rng.choice((f"You are a {role.lower()}. {goal}", f"You are {role}. {backstory}", goal))


def _tools(rng: random.Random, prefix: str) -> tuple[Tool, ...]:
    tools = [function_tool(prefix + name, keys) for name, keys in _SIGNATURES.items()]
    # The order of tools is the client's choice and must not decide the call.
    rng.shuffle(tools)
    return tuple(tools)


def _outcome(rng: random.Random, task: RetailTask) -> tuple[str, str]:
    """A tool result such as the gateway gives, and the answer to it."""
    if rng.random() < 0.04:
        body = {"error": rng.choice(wordings.FAILURES)}
        return _compact(body), f"The tool failed for customer {task.customer_id}."
    known = rng.random() >= 0.04
    unknown = f"Customer {task.customer_id} is not known."
    if task.kind in PREDICTED:
        if not known:
            return render_prediction(task.customer_id, None), unknown
        # Independent of the probability: the label can only be copied.
        label = rng.choice(("lapse", "return"))
        content = render_prediction(task.customer_id, rng.random(), label)
        return content, task.expected_answer({"prediction": label})
    if not known:
        return render_features(task.customer_id, None), unknown
    features = _features(rng)
    return render_features(task.customer_id, features), task.expected_answer(features)


def _features(rng: random.Random) -> dict[str, int | float]:
    purchases = _small_count(rng, 300)
    # A purchase has at least one item.
    items = purchases + _small_count(rng, 300) - 1
    # The log spans 545 days, which no recency or tenure exceeds.
    values = (
        rng.randint(0, 545),
        purchases,
        round(items * rng.uniform(5, 25), 2),
        max(1, purchases - rng.randint(0, 3)),
        items,
        rng.randint(0, 545),
    )
    return dict(zip(SHOWN_FEATURES, values, strict=True))


def _small_count(rng: random.Random, top: int) -> int:
    """A count between 1 and ``top``, small ones likelier."""
    count: int = round(float(top) ** rng.random())
    return max(1, count)
