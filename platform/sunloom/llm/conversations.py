"""Conversations with tools: training and evaluation data of chat models.

A conversation is a list of OpenAI chat messages (assistant turns may hold ``tool_calls``, tool
results have the role ``tool``) and the JSON schemas of the available tools. Sources of
conversations are plugins (entry point group ``sunloom.conversations``).
"""

# Lists of words read best as prose.
# ruff: noqa: SIM905
from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import orjson

from sunloom.core.plugins import load_plugin
from sunloom.errors import UsageError

Message = dict[str, Any]
Tool = dict[str, Any]
TEXT = "text"
"""Role of the only message of a text that is no conversation; no file's message has it."""
ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles of a message, in files and in requests alike."""


@dataclass(frozen=True)
class Feedback:
    """What people said of a conversation's completion, the messages after its prompt.

    Attributes:
        prompt: Number of messages of the prompt; all of them where nothing is completed yet.
        rejected: Messages that they preferred the completion to; () where there is no pair.
        label: Whether the completion is desirable; None where it is one of a pair, or missing.
        columns: What else the row of a prompt had, for reward functions.
    """

    prompt: int
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """Messages and the available tools.

    Attributes:
        messages: OpenAI chat messages, ending with an assistant turn.
        tools: OpenAI function schemas.
        source: The file that it was read from; empty where it was made.
        position: Line or row in that file, from 1.
        feedback: What was said of its completion, where that is learned from.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    source: str = field(default="", compare=False)
    position: int = field(default=0, compare=False)
    feedback: Feedback | None = None

    def canonical(self) -> str:
        """One text for equal conversations, whatever the order of keys in their files."""
        return orjson.dumps(self.to_plain(), default=str, option=orjson.OPT_SORT_KEYS).decode()

    def to_plain(self) -> list[Any]:
        """Messages, tools and feedback as JSON has them, in the order of their own keys."""
        return [self.messages, self.tools, *([asdict(self.feedback)] if self.feedback else ())]

    @classmethod
    def from_plain(
        cls, messages: list[Message], tools: list[Tool], feedback: dict[str, Any] | None = None
    ) -> Conversation:
        """The conversation that ``to_plain`` was called on."""
        said = None
        if feedback is not None:
            said = Feedback(**feedback | {"rejected": tuple(feedback["rejected"])})
        return cls(tuple(messages), tuple(tools), feedback=said)

    @property
    def is_prompt(self) -> bool:
        """Whether nothing is completed yet."""
        return self.feedback is not None and self.feedback.prompt == len(self.messages)

    def completions(self) -> tuple[Conversation, ...]:
        """The chosen and the rejected conversation of a pair; else this one alone."""
        if self.feedback is None or not self.feedback.rejected:
            return (self,)
        rejected = (*self.messages[: self.feedback.prompt], *self.feedback.rejected)
        return self, replace(self, messages=rejected)

    def head(self, n: int) -> Conversation:
        """The first ``n`` messages, with the same tools."""
        return replace(self, messages=self.messages[:n])


@runtime_checkable
class ConversationSource(Protocol):
    """A source of conversations; the same arguments give the same conversations."""

    def train(self, n: int, seed: int) -> list[Conversation]:
        """Conversations to learn from."""
        ...

    def held_out(self, n: int, seed: int) -> list[Conversation]:
        """Conversations to judge on, disjoint from every training conversation."""
        ...


def load_conversation_source(name: str) -> ConversationSource:
    """A conversation source by its entry point.

    Raises:
        NotFoundError: No such entry point; the known ones are listed.
        UsageError: It is not a conversation source.
    """
    source = load_plugin("sunloom.conversations", name)()
    if not isinstance(source, ConversationSource):
        raise UsageError(f"{name!r} is not a conversation source.", param="data.conversations")
    return source


def function_tool(name: str, parameters: Sequence[tuple[str, str]], description: str = "") -> Tool:
    """An OpenAI function schema whose parameters are all required.

    Args:
        name: Name the model calls it by.
        parameters: Name and JSON type of each parameter, in order.
        description: What it does, for models that read it.
    """
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in parameters},
        "required": [key for key, _ in parameters],
    }
    function = {"name": name, "description": description or name, "parameters": schema}
    return {"type": "function", "function": function}


def call_message(name: str, arguments: dict[str, Any], call_id: str = "call_0") -> Message:
    """An assistant turn that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result_message(name: str, content: str, call_id: str = "call_0") -> Message:
    """A tool's answer."""
    return {"role": "tool", "name": name, "tool_call_id": call_id, "content": content}


def engine_messages(rng: random.Random, engine: str, system: str, task: str) -> list[Message]:
    """The first two messages as an agent engine sends them.

    Args:
        rng: Chooses a name for Semantic Kernel's system message.
        engine: ``crewai``, ``semantic_kernel`` or ``plain`` (no system message).
        system: The system text in the engine's own form.
        task: The user's question.
    """
    if engine == "crewai":
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": f"\nCurrent Task: {task}"},
        ]
    if engine == "semantic_kernel":
        name = rng.choice(NAMES)
        return [
            {"role": "system", "content": system, "name": name},
            {"role": "user", "content": task},
        ]
    return [{"role": "user", "content": task}]


def crewai_system(role: str, backstory: str, goal: str) -> str:
    """CrewAI's system text."""
    return f"You are {role}. {backstory}\nYour personal goal is: {goal}"


class GenericConversations:
    """Generated conversations with random tools, names and values; no subject of their own.

    They teach reading a tool list, copying names and values into a call, and copying one value
    out of a JSON result into a sentence.
    """

    def train(self, n: int, seed: int) -> list[Conversation]:
        """``n`` conversations from the training stream of ``seed``."""
        # Seeded by a string, which Random hashes alike in every process, for two separate streams.
        rng = random.Random(f"generic-train-{seed}")
        return [_generic(rng) for _ in range(n)]

    def held_out(self, n: int, seed: int) -> list[Conversation]:
        """``n`` conversations from a stream of their own."""
        rng = random.Random(f"generic-held-out-{seed}")
        return [_generic(rng) for _ in range(n)]


# Common words; none belongs to a trade. A repeated word only weighs more in a draw.
NOUNS = tuple(
    """answer area bird board boat bridge building camera capital car case channel chart city
    class clock cloud code color company corner country course cycle date day days degree desk
    device distance door engine event example farm field file fire flight floor flower forest
    form friend game garden goal group hand head height hill history home hour house idea image
    island job journey key kind lake language law length letter level library light line list
    machine map mark market meeting memory message metal minute model moment month moon mountain
    movie music name network night note number ocean office order page paper park part pattern
    person phone picture piece place plan planet plant player point position power problem
    process program project question rain range rate reading record region report rest river
    road role room root route rule sample school score screen sea season second section sensor
    sentence series server set shape ship side sign signal size sky song sound source space
    speed sport stage star state station step stone storm story street student subject summary
    sun surface system table task team temperature term test text thing time tool total tower
    town track train tree type unit user value version view village voice volume wall water
    way week weight wheel wind window winter word work world worker year zone analyst assistant
    expert helper agent policy sum status amount count people life mile
    entity feature detail member note result source target times limit batch share ratio rank
    owner money dollars risk share times""".split()
)

VERBS = tuple(
    """add answer ask be become begin bring build call change check choose close collect compare
    compute copy count create cut describe do draw drive explain fetch fill find finish follow
    get give go help hold inspect keep know learn leave lift list load look make mark measure
    meet move name need offer open paint pass pick plan play point put query read record reply
    report run say search see send set show solve start stay stop study take talk tell think
    track try turn use wait walk watch will work write has have had did does was were made seen
    spend spent buy bought receive expect lose went came come would could should shall can must
    be is are""".split()
)

ADJECTIVES = tuple(
    """able active all any bad big black blue bright busy calm cheap clean clear clever cold cool
    current daily dark deep dry early easy empty equal exact extra fair fast final fine first
    flat free fresh full general global good gray great green hard heavy high hot hungry inner
    joint kind large last late left light likely little local long loose loud low main many most
    narrow native near new next nice old open outer past plain poor public pure quick quiet rare
    raw real recent red regular rich right round safe same sharp short silent simple single slow
    small smart soft solid some special stable steady still strange strong sure sweet tall thick
    thin tiny tired true upper useful usual warm weak wet whole wide wild wise wrong yellow
    young often ago since whether again back much many long recent away brief most how when what
    our us we you them they there who if to from in on no not yes so only""".split()
)

NAMES = tuple(
    """Analyst Helper Assistant Agent Guide Clerk Scout Pilot Reader Solver Finder Worker""".split()
)
_NAMED = (
    "for {}", "with {}", "where {}", "given {}", "at {}", "using {}", "of {}",
)  # fmt: skip
_PAIR = ("{k} {v}", "{k} {v}", "{k} = {v}", "{k} is {v}", "the {k} {v}")
_OPENINGS = ("", "", "", "", "Please ", "Can you ", "Now ", "Help me ")
_ONSETS = (*"bcdfghjklmnprstvwz", "br", "ch", "cl", "dr", "fl", "gr", "pl", "sh", "st", "th", "tr")
_VOWELS = (*"aeiou", "ai", "ea", "ee", "io", "oo", "ou")
_CODAS = ("", "", "", "n", "r", "s", "t", "l", "ck", "nd", "st", "m")


@dataclass(frozen=True)
class _Task:
    """A question about one thing, the argument values it names, and how it is answered."""

    question: str
    answer: Callable[[Any], str]
    key: str
    value: Any


def _generic(rng: random.Random) -> Conversation:
    if rng.random() < 0.06:
        return _echo(rng)
    # Clients of Semantic Kernel usually send plugin-function names.
    prefix = f"{_capital(_word(rng))}-" if rng.random() < 0.45 else ""
    names = _distinct(rng, _tool_name, rng.choice((1, 2, 2, 2, 3)))
    signatures = {name: _signature(rng) for name in names}
    tools = tuple(function_tool(prefix + name, signatures[name]) for name in names)
    chosen = rng.choice(names)
    arguments = {
        key: _integer(rng) if kind == "integer" else _text(rng) for key, kind in signatures[chosen]
    }
    task = _task(rng, chosen, arguments)
    engine = rng.choice(("crewai", "crewai", "semantic_kernel", "semantic_kernel", "plain"))
    messages = engine_messages(rng, engine, _system(rng, engine), task.question)
    content, answer = _outcome(rng, arguments, task)
    call = prefix + chosen
    messages += [call_message(call, arguments), result_message(call, content)]
    messages.append({"role": "assistant", "content": answer})
    return Conversation(tuple(messages), tools)


def _echo(rng: random.Random) -> Conversation:
    text = " ".join(
        str(_integer(rng) if rng.random() < 0.5 else _text(rng)) for _ in range(rng.randint(2, 6))
    )
    tools = tuple(function_tool(name, _signature(rng)) for name in _distinct(rng, _tool_name, 1))
    question = rng.choice(("Say {}", "Repeat: {}", "Write {}", "Answer with {}")).format(text)
    messages = engine_messages(rng, "plain", "", question)
    return Conversation((*messages, {"role": "assistant", "content": f"{text}."}), tools)


def _task(rng: random.Random, tool: str, arguments: dict[str, Any]) -> _Task:
    pairs = [
        rng.choice(_PAIR).format(k=_to_words(key), v=value) for key, value in arguments.items()
    ]
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    where = rng.choice(_NAMED).format(rng.choice((" and ", ", ", " and ")).join(pairs))
    action = f"{rng.choice(_OPENINGS)}{_to_words(tool)} {where}".strip()
    subject = str(next(reversed(arguments.values())))
    key = _field(rng)
    ask, value, answer = _aim(rng, key, subject)
    question = f"{_capital(action)}. {ask}" if rng.random() < 0.5 else f"{ask} {_capital(action)}."
    return _Task(question, answer, key, value)


def _aim(rng: random.Random, key: str, subject: str) -> tuple[str, Any, Callable[[Any], str]]:
    """Question about the result, the value in the result, and the sentence that answers."""
    noun, name = rng.choice(NOUNS), _to_words(key)
    draw = rng.random()
    if draw < 0.3:
        word, other = rng.sample(ADJECTIVES, 2)
        state = rng.choice((word, other))
        verdict = "Yes" if state == word else "No"
        ask = f"Is {noun} {subject} {word}?"
        return ask, state, lambda x: f"{verdict}. {_capital(noun)} {subject} is {x}."
    value = _result_value(rng)
    if draw < 0.5:
        ask = f"What is the {name} of {noun} {subject}?"
        return ask, value, lambda x: f"The {name} of {noun} {subject} is {x}."
    if draw < 0.7:
        ask = f"How many {name} has {noun} {subject}?"
        return ask, value, lambda x: f"{_capital(noun)} {subject} has {x} {name}."
    return f"Tell me the {name}.", value, lambda x: f"The {name} is {x}."


def _outcome(rng: random.Random, arguments: dict[str, Any], task: _Task) -> tuple[str, str]:
    """The tool's result as text, and the final answer."""
    if rng.random() < 0.04:
        subject = next(reversed(arguments.values()))
        return _json(rng, {**arguments, "found": False}), f"{_capital(str(subject))} is not known."
    fields = {_field(rng): _result_value(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 4)))}
    # With two equal keys the shuffle would decide which value is in the result.
    fields.pop(task.key, None)
    items = [*fields.items(), (task.key, task.value)]
    rng.shuffle(items)
    body: dict[str, Any] = dict(items)
    if rng.random() < 0.4:
        body = {_word(rng): body}
    if rng.random() < 0.3:
        body = {**arguments, **body}
    # Written as in the JSON result: the answer copies those very tokens.
    return _json(rng, body), task.answer(json.dumps(task.value).strip('"'))


def _json(rng: random.Random, body: dict[str, Any]) -> str:
    separators = (",", ":") if rng.random() < 0.8 else (", ", ": ")
    return json.dumps(body, separators=separators)


def _system(rng: random.Random, engine: str) -> str:
    if engine == "crewai":
        return crewai_system(_phrase(rng, 1), _sentence(rng), _sentence(rng))
    return f"You are {_phrase(rng, 2)}." if rng.random() < 0.5 else _sentence(rng)


def _sentence(rng: random.Random) -> str:
    return f"{_capital(_phrase(rng, rng.choice((1, 2, 3))))}."


def _phrase(rng: random.Random, n: int) -> str:
    pools = (NOUNS, ADJECTIVES, VERBS)
    return " ".join(rng.choice(rng.choice(pools)) for _ in range(n))


def _tool_name(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.45:
        return f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    if draw < 0.75:
        return f"{_word(rng)}_{_word(rng)}"
    return _word(rng)


def _signature(rng: random.Random) -> list[tuple[str, str]]:
    keys = _distinct(rng, _field, rng.choice((1, 1, 2, 2, 2)))
    return [(key, rng.choice(("string", "integer", "integer"))) for key in keys]


def _field(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(NOUNS)
    if draw < 0.8:
        return f"{rng.choice(ADJECTIVES + NOUNS)}_{rng.choice(NOUNS)}"
    return _word(rng)


def _result_value(rng: random.Random) -> Any:
    draw = rng.random()
    if draw < 0.4:
        return _integer(rng)
    if draw < 0.7:
        return round(rng.random() * 10 ** rng.randint(0, 4), 2)
    return _text(rng)


def _integer(rng: random.Random) -> int:
    digits = rng.choice((1, 2, 3, 3, 4, 4, 5, 5, 6))
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _text(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.75:
        return _word(rng)
    if draw < 0.9:
        return f"{_word(rng)}-{rng.randrange(100)}"
    return f"{_word(rng)} {_word(rng)}"


def _word(rng: random.Random) -> str:
    """A common word, or one that exists nowhere."""
    if rng.random() < 0.85:
        return rng.choice(rng.choice((NOUNS, ADJECTIVES, VERBS)))
    # An invented word cannot be known by heart: it has to be copied.
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 1, 2, 2)))
    )


def _distinct(rng: random.Random, make: Callable[[random.Random], str], n: int) -> list[str]:
    # A dict keeps the order of drawing; a set would not, and the seed would not decide.
    names: dict[str, None] = {}
    while len(names) < n:
        names[make(rng)] = None
    return list(names)


def _to_words(name: str) -> str:
    return name.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
