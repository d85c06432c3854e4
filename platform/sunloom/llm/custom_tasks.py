"""Tasks of one's own: files of conversations, judged by a metric on what the model writes."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sunloom.config.llm import (
    F1,
    ConversationData,
    ConversationFile,
    CustomTask,
    ExactText,
    JsonSchema,
    PluginMetric,
    Regex,
    Rouge,
    ToolCallMatch,
)
from sunloom.core.plugins import load_plugin
from sunloom.errors import DataError, PluginError, UsageError
from sunloom.evaluation.measurements import JudgedText, Measurement, measure_texts
from sunloom.llm.conversation_files import FileConversations
from sunloom.llm.conversations import TEXT, Conversation, Message
from sunloom.llm.encoding import render
from sunloom.llm.evaluation import Generate, called_tools, last_question, parse_calls

METRIC_GROUP = "sunloom.metrics"
_KEY = "evaluation.custom_tasks"
Score = Callable[[Message, str], float]
"""The expected message and the generated text to a score from 0 to 1."""


class LoadedTask:
    """A task whose file has been read and whose metric is ready.

    Args:
        task: Names both.
        seed: Chooses the conversations where the task has a limit.

    Attributes:
        task: As given.
        conversations: Each up to the answer that is compared.

    Raises:
        UsageError: A file does not exist or is not what it should be.
        DataError: There is nothing to judge on.
        NotFoundError: No package offers the metric.
    """

    def __init__(self, task: CustomTask, seed: int) -> None:
        self.task = task
        self._score = METRICS[type(task.metric)](task.metric)
        data = ConversationData(
            train=(ConversationFile(path=task.path, format=task.format),), held_out_share=0
        )
        found = FileConversations(data).train(0, seed)
        # A text without turns has no answer to compare, a preference no right one.
        asked = [c for c in found if c.messages[0]["role"] != TEXT and c.feedback is None]
        self.conversations = [_to_last_answer(c) for c in asked[: task.limit]]
        if not self.conversations:
            raise DataError(f"The task {task.name!r} has no conversation to judge on.", param=_KEY)

    def run(self, generate: Generate, tokenizer: Any) -> Measurement:
        """Score a model: ``tasks.NAME``.

        Args:
            generate: Continues prompts.
            tokenizer: Renders the prompts.
        """
        prompts = [
            render(tokenizer, c.head(len(c.messages) - 1), prompt=True) for c in self.conversations
        ]
        examples = []
        for conversation, text in zip(self.conversations, generate(prompts), strict=True):
            answer = conversation.messages[-1]
            expected = str(answer.get("content") or "")
            if answer.get("tool_calls"):
                expected = json.dumps(called_tools(answer))
            examples.append(
                JudgedText(
                    question=last_question(conversation),
                    expected=expected,
                    generated=text,
                    score=self._score(answer, text),
                )
            )
        return measure_texts(f"tasks.{self.task.name}", self.task.metric.type, tuple(examples))


def _to_last_answer(conversation: Conversation) -> Conversation:
    """The conversation up to its last answer."""
    roles = [message["role"] for message in conversation.messages]
    end = len(roles) - roles[::-1].index("assistant")
    return conversation.head(end)


def f1_of_words(expected: str, generated: str) -> float:
    """F1 of the words as SQuAD's evaluation counts them: without case, articles, punctuation."""
    wanted, found = _words(expected), _words(generated)
    if not wanted or not found:
        return float(wanted == found)
    shared = (Counter(wanted) & Counter(found)).total()
    return 2 * shared / (len(wanted) + len(found))


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _exact_text(metric: ExactText) -> Score:
    def score(expected: Message, generated: str) -> float:
        pair = [str(expected.get("content") or "").strip(), generated.strip()]
        if metric.ignore_case:
            pair = [text.casefold() for text in pair]
        return float(pair[0] == pair[1])

    return score


def _f1(_metric: F1) -> Score:
    return lambda expected, generated: f1_of_words(str(expected.get("content") or ""), generated)


def _rouge(metric: Rouge) -> Score:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([metric.variant], use_stemmer=True)

    def score(expected: Message, generated: str) -> float:
        figures = scorer.score(str(expected.get("content") or ""), generated)
        return float(figures[metric.variant].fmeasure)

    return score


def _json_schema(metric: JsonSchema) -> Score:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(metric.path.read_text())
        validator_class = validator_for(schema)
        validator_class.check_schema(schema)
    except (OSError, ValueError, SchemaError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{metric.path} is not a JSON schema: {reason}", param=_KEY) from error
    validator = validator_class(schema)

    def score(_expected: Message, generated: str) -> float:
        try:
            return float(validator.is_valid(json.loads(generated)))
        except (ValueError, RecursionError):
            return 0.0

    return score


def _tool_call(_metric: ToolCallMatch) -> Score:
    return lambda expected, generated: float(parse_calls(generated) == called_tools(expected))


def _regex(metric: Regex) -> Score:
    try:
        pattern = re.compile(metric.pattern)
    except re.error as error:
        reason = f"{metric.pattern!r} is not a regular expression: {error}"
        raise UsageError(reason, param=_KEY) from error
    return lambda _expected, generated: float(pattern.search(generated) is not None)


def _plugin(metric: PluginMetric) -> Score:
    function = load_plugin(METRIC_GROUP, metric.name)

    def score(expected: Message, generated: str) -> float:
        value = function(str(expected.get("content") or ""), generated)
        if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
            raise PluginError(
                f"The metric {metric.name!r} gave {value!r}, not a score from 0 to 1.", param=_KEY
            )
        return float(value)

    return score


METRICS: Mapping[type, Callable[[Any], Score]] = {
    ExactText: _exact_text,
    F1: _f1,
    Rouge: _rouge,
    JsonSchema: _json_schema,
    ToolCallMatch: _tool_call,
    Regex: _regex,
    PluginMetric: _plugin,
}
"""By the section of a task's ``metric``."""
