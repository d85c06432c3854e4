"""What a recipe learns from and is judged on, loaded and checked before the first step."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sunloom.config.llm import LlmRecipe
from sunloom.core.telemetry import get_logger
from sunloom.data.quarantine import Damaged, QuarantineWriter
from sunloom.errors import DataError, UsageError
from sunloom.llm.conversation_files import FileConversations, FileCounts, open_conversations
from sunloom.llm.conversation_formats import BadRowError, read_conversation
from sunloom.llm.conversations import (
    Conversation,
    ConversationSource,
    load_conversation_source,
)
from sunloom.llm.encoding import encode_checked
from sunloom.llm.overlaps import Overlaps, handle_overlaps
from sunloom.llm.tokenising import (
    FiledConversations,
    ListedConversations,
    Tokenised,
    TrainingConversations,
)

QUARANTINE = "quarantine.jsonl"
"""File in a run's folder with the rows that were not used."""


@dataclass
class ConversationSplit:
    """Conversations of a run.

    Attributes:
        train: To learn from.
        held_out: To judge the result on.
        validation: To judge on during the run; none of them is in ``held_out``.
        digest: Hash of all that is learned from and judged on.
        set_aside: Rows that cannot be used.
        files: What became of each file's rows.
        overlaps: Rows that are like others, whether they are used or not.
    """

    train: TrainingConversations
    held_out: list[Conversation]
    validation: list[Conversation]
    digest: str
    set_aside: list[Damaged] = field(default_factory=list)
    files: tuple[FileCounts, ...] = ()
    overlaps: tuple[Damaged, ...] = ()

    def tokenise(self, tokenizer: Any, max_length: int, folder: Path) -> Tokenised:
        """Write the training conversations as tokens; those with nothing to learn are set aside.

        Args:
            tokenizer: A fast tokenizer with a chat template.
            max_length: Longest row in tokens; the rest of a longer one is cut off.
            folder: Where the tokens go; all workers must see it.

        Raises:
            DataError: Nothing is left.
        """
        tokenised = self.train.tokenise(tokenizer, max_length, folder)
        rejected = {index: self.train.load(index) for index in tokenised.rejected}
        self._set_aside("train", rejected, tokenised.rejected)
        if not tokenised.rows:
            raise self._nothing_left("There is no conversation to learn from")
        return tokenised

    def name_places(self, numbers: Iterable[int]) -> list[str]:
        """Where conversations that are learned from come from, such as ``own.jsonl:17``.

        Args:
            numbers: Of ``Tokenised``.
        """
        places = (_place_of(self.train.load(number), "train", number) for number in numbers)
        return [f"{source}:{position}" for source, position in places]

    def require_judgeable(self, tokenizer: Any, max_length: int) -> None:
        """Leave only held-out conversations that can be judged with this tokenizer.

        Raises:
            DataError: Nothing is left.
        """
        for name in ("held_out", "validation"):
            conversations: list[Conversation] = getattr(self, name)
            encoded = encode_checked(tokenizer, conversations, max_length)
            self._set_aside(name, dict(enumerate(conversations)), encoded.rejected)
            setattr(self, name, [conversations[index] for index in dict.fromkeys(encoded.kept)])
        if not self.held_out:
            raise self._nothing_left("There is no held-out conversation to judge on")
        labels = {c.feedback.label for c in self.held_out if c.feedback is not None}
        if labels in ({True}, {False}):
            raise self._nothing_left(
                "The held-out completions are all desirable, or all undesirable: there is nothing "
                "to compare"
            )

    def write_quarantine(self, folder: Path) -> Path | None:
        """Write what was set aside to the run's folder and say so; None where nothing was."""
        with QuarantineWriter(folder / QUARANTINE) as writer:
            for row in self.set_aside:
                writer.write(asdict(row))
        if writer.path is not None:
            get_logger("llm").warning(
                "%d rows are not used (%s): %s",
                len(self.set_aside),
                self._list_reasons(),
                writer.path,
            )
        return writer.path

    def _set_aside(
        self, name: str, conversations: Mapping[int, Conversation], rejected: Mapping[int, str]
    ) -> None:
        # A plugin's conversation may stand there several times.
        known = {(row.source, row.position) for row in self.set_aside}
        for index, reason in rejected.items():
            found = conversations[index]
            source, position = _place_of(found, name, index)
            if (source, position) not in known:
                known.add((source, position))
                text = found.canonical()[:500]
                self.set_aside.append(Damaged(source, position, reason, text))

    def count_reasons(self) -> dict[str, int]:
        """Reason to number of rows that were set aside, the most frequent first."""
        counts = Counter(row.reason.partition(":")[0] for row in self.set_aside)
        return dict(counts.most_common())

    def _list_reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.count_reasons().items())

    def _nothing_left(self, what: str) -> DataError:
        found = self._list_reasons()
        hint = "sunloom llm prepare RECIPE shows what becomes of each row."
        return DataError(f"{what}{f': {found}' if found else ''}.", hint, "data")


def _place_of(conversation: Conversation, name: str, index: int) -> tuple[str, int]:
    """File and line or row; of what a plugin made, the place in its list."""
    return conversation.source or name, conversation.position or index + 1


def load_split(recipe: LlmRecipe, *, is_report: bool = False) -> ConversationSplit:
    """Load and check all that a recipe learns from and is judged on.

    Args:
        recipe: Names it.
        is_report: Whether conversations that are like others are looked for where the recipe does
            not drop them, too.

    Raises:
        UsageError: A file does not exist, or too few conversations are left to judge on.
        NotFoundError: A plugin does not exist.
    """
    source = open_conversations(recipe)
    judge = judging_source(recipe, source)
    training, evaluation = recipe.training, recipe.evaluation
    set_aside = list(source.damaged) if isinstance(source, FileConversations) else []
    held_out = _check_all(
        judge, judge.held_out(evaluation.held_out, recipe.seed), "held_out", set_aside
    )
    validation = _choose_validation(recipe, judge, held_out, set_aside)
    overlaps = Overlaps()
    train: TrainingConversations
    if isinstance(source, FileConversations):
        # Those of the files are compared all, not only the chosen ones.
        others = [] if judge is source else [*held_out, *validation]
        overlaps = handle_overlaps(recipe, source, others, is_report=is_report)
        set_aside += overlaps.dropped
        train = FiledConversations(source, recipe.seed)
    else:
        wanted = training.max_steps * training.conversations_a_step
        made = _check_all(source, source.train(wanted, recipe.seed), "train", set_aside)
        train = ListedConversations(made)
    digest = hashlib.sha256()
    for part in (train, ListedConversations(held_out), ListedConversations(validation)):
        for content in part.digest_parts():
            digest.update(content)
        digest.update(b"\0")
    files = tuple(source.counts) if isinstance(source, FileConversations) else ()
    return ConversationSplit(
        train=train,
        held_out=held_out,
        validation=validation,
        digest=digest.hexdigest(),
        set_aside=set_aside,
        files=files,
        overlaps=overlaps.rows,
    )


def judging_source(
    recipe: LlmRecipe, source: ConversationSource | None = None
) -> ConversationSource:
    """Where the judging conversations come from: ``evaluation.conversations``, else the data's."""
    if recipe.evaluation.conversations is not None:
        return load_conversation_source(recipe.evaluation.conversations)
    return source or open_conversations(recipe)


def held_out_conversations(recipe: LlmRecipe) -> list[Conversation]:
    """The checked held-out conversations of a recipe.

    Raises:
        DataError: There is none.
    """
    judge = judging_source(recipe)
    found = judge.held_out(recipe.evaluation.held_out, recipe.seed)
    conversations = _check_all(judge, found, "held_out", [])
    if not conversations:
        raise DataError(
            "There is no held-out conversation to judge on.",
            "Raise data.held_out_share or evaluation.held_out, or add conversations.",
            "evaluation",
        )
    return conversations


def _choose_validation(
    recipe: LlmRecipe,
    judge: ConversationSource,
    held_out: Sequence[Conversation],
    set_aside: list[Damaged],
) -> list[Conversation]:
    if recipe.eval_steps is None:
        return []
    wanted = recipe.evaluation.eval_sample
    # Another seed than the final evaluation's, and more than are wanted: those that judge the
    # result must not be the ones that have selected it.
    most = wanted + len(held_out)
    others = _check_all(judge, judge.held_out(most, recipe.seed + 1), "validation", set_aside)
    final = {conversation.canonical() for conversation in held_out}
    chosen = [c for c in others if c.canonical() not in final][:wanted]
    if not chosen:
        raise UsageError(
            "All held-out conversations judge the result: none is left to evaluate on during "
            "training.",
            "Lower evaluation.held_out, raise data.held_out_share, or leave out "
            "evaluation.eval_steps and training.early_stopping.",
            "evaluation.eval_steps",
        )
    return chosen


def _check_all(
    source: ConversationSource,
    conversations: Sequence[Conversation],
    name: str,
    set_aside: list[Damaged],
) -> list[Conversation]:
    """Conversations of a plugin go through the checks of files; those of files have."""
    if isinstance(source, FileConversations):
        return list(conversations)
    checked = []
    for number, conversation in enumerate(conversations, 1):
        row = {"messages": list(conversation.messages), "tools": list(conversation.tools)}
        try:
            checked.append(read_conversation(row, "messages"))
        except BadRowError as error:
            content = conversation.canonical()[:500]
            set_aside.append(Damaged(name, number, str(error), content))
    return checked
