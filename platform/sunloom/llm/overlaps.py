"""Conversations of files that are like others: near-duplicates, and what holds judging ones.

Files are read by block, wherever their blocks run; of each conversation this process keeps its
MinHash keys, and the words only of those that share one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sunloom.config.llm import ContaminationRule, LlmRecipe, NearDuplicateRule
from sunloom.core.telemetry import progress_bar
from sunloom.data.quarantine import Damaged
from sunloom.llm.benchmarks import Benchmarks
from sunloom.llm.contamination import Contamination, build_index, find_contamination, load_index
from sunloom.llm.conversation_files import FileConversations, load_checked
from sunloom.llm.conversations import Conversation
from sunloom.llm.custom_tasks import LoadedTask
from sunloom.llm.near_duplicates import BANDS, NearMatch, find_near_duplicates, hash_bands
from sunloom.llm.word_ngrams import Words, compared_text, join_words, load_words, split_words


@dataclass(frozen=True)
class Question:
    """A text that a model will be judged by.

    Attributes:
        place: Where it is from.
        text: What the model reads, and the right answer where there is one.
    """

    place: str
    text: str


@dataclass(frozen=True)
class Overlaps:
    """Conversations to learn from that are like others.

    Attributes:
        rows: Each with its place and what it is like.
        dropped: Of these, the ones that are left out.
    """

    rows: tuple[Damaged, ...] = ()
    dropped: tuple[Damaged, ...] = ()


@dataclass(frozen=True)
class WordTask:
    """A block whose conversations are to be split into words.

    Attributes:
        number: The block's.
        checked: File of its conversations; the words go beside it.
        offsets: Of each conversation in that file.
        threshold: Of near-duplicates; None asks for no keys.
    """

    number: int
    checked: Path
    offsets: NDArray[np.int64]
    threshold: float | None


@dataclass(frozen=True)
class SearchTask:
    """A block in which judging texts are to be looked for.

    Attributes:
        number: The block's.
        checked: File beside which its words lie.
        rows: Its conversations to learn from ``[N]``.
        index: File of the judging texts' runs of words.
        threshold: Least share of a text.
    """

    number: int
    checked: Path
    rows: NDArray[np.int64]
    index: Path
    threshold: float


def split_block(task: WordTask) -> tuple[int, NDArray[np.uint32] | None]:
    """Write the words of a block's conversations; its number and their MinHash keys ``[N, B]``."""
    rows = range(len(task.offsets) - 1)
    found = load_checked(task.checked, task.offsets, rows)
    words = split_words([compared_text(conversation) for conversation in found])
    words.save(task.checked)
    return task.number, None if task.threshold is None else hash_bands(words, task.threshold)


def search_block(task: SearchTask) -> tuple[int, Contamination]:
    """The number of a block, and its conversations that hold judging texts."""
    words = load_words(task.checked).take(task.rows)
    found = find_contamination(words, load_index(task.index), task.threshold)
    return task.number, Contamination(task.rows[found.rows], found.texts, found.shares)


def handle_overlaps(
    recipe: LlmRecipe,
    source: FileConversations,
    held_out: Sequence[Conversation] = (),
    *,
    is_report: bool = False,
) -> Overlaps:
    """Find conversations that are like others, count them, and leave out what the recipe drops.

    Args:
        recipe: What is looked for, and what judges.
        source: The files.
        held_out: Judging conversations of a plugin.
        is_report: Whether what the recipe does not drop is looked for, too.

    Raises:
        UsageError: A task's or a benchmark's data cannot be loaded.
    """
    near, rule = recipe.data.near_duplicates, recipe.data.contamination
    if rule is not None and not is_report and rule.action == "report":
        rule = None
    if near is not None and not is_report and near.action == "report" and rule is None:
        near = None
    if near is None and rule is None:
        return Overlaps()
    questions = [] if rule is None else list_questions(recipe, rule, held_out)
    alike, contaminated = find_overlaps(source, near, rule, questions)
    rows: list[Damaged] = []
    dropped: list[Damaged] = []
    gone: set[int] = set()
    for reason, found, handled in (
        ("near-duplicate", alike, near),
        ("contaminated", contaminated, rule),
    ):
        listed = _list_rows(source, reason, found)
        rows += listed
        if handled is not None and handled.action == "drop":
            dropped += listed
            gone |= found.keys()
    source.count_overlaps(*map(_sort, (alike, contaminated, gone)))
    return Overlaps(tuple(rows), tuple(dropped))


def list_questions(
    recipe: LlmRecipe, rule: ContaminationRule, held_out: Sequence[Conversation]
) -> list[Question]:
    """What a recipe's model will be judged by, beside the held-out conversations of its files.

    Args:
        recipe: Names tasks and benchmarks.
        rule: To count only, no benchmark is fetched.
        held_out: Judging conversations of a plugin.
    """
    config = recipe.evaluation
    questions = [Question(f"held out:{n}", compared_text(c)) for n, c in enumerate(held_out, 1)]
    for task in config.custom_tasks:
        for conversation in LoadedTask(task, recipe.seed).conversations:
            place = f"{conversation.source}:{conversation.position}"
            questions.append(Question(place, compared_text(conversation)))
    if config.benchmarks and (config.benchmark_data is not None or rule.action == "drop"):
        questions += (Question(*found) for found in Benchmarks(config).questions())
    return questions


def find_overlaps(
    source: FileConversations,
    near: NearDuplicateRule | None,
    rule: ContaminationRule | None,
    questions: Sequence[Question],
) -> tuple[dict[int, str], dict[int, str]]:
    """Find conversations to learn from that are like others.

    Args:
        source: The files.
        near: Of near-duplicates; None looks for none.
        rule: Of contamination; None looks for none.
        questions: What judges beside the files' own held-out conversations.

    Returns:
        Numbers of near-duplicates, and of contaminated ones, each with what it is like.
    """
    keys = _split(source, near.threshold if near is not None else None)
    total = int(source.bases[-1])
    outside = split_words([question.text for question in questions])
    # Numbered after the conversations of the files.
    judging = np.concatenate([source.judging, total + np.arange(len(questions))])

    def load(numbers: NDArray[np.int64]) -> Words:
        known, order = np.unique(numbers, return_inverse=True)
        parts = [
            load_words(source.blocks[which].checked).take(np.asarray(rows, np.int64))
            for which, rows in source.by_block(known[known < total].tolist())
        ]
        return join_words([*parts, outside.take(known[known >= total] - total)]).take(order)

    def place_of(number: int) -> str:
        if number >= total:
            return questions[number - total].place
        return "{}:{}".format(*source.place_of(number))

    contaminated: dict[int, str] = {}
    if rule is not None:
        for base, found in _search(source, load(judging), rule):
            for row, text, share in zip(found.rows, found.texts, found.shares, strict=True):
                place = place_of(int(judging[text]))
                contaminated[base + int(row)] = f"{share:.2f} of the runs of words of {place}"
    alike: dict[int, str] = {}
    if near is not None:
        is_dropped = rule is not None and rule.action == "drop"
        gone = _sort(contaminated) if is_dropped else judging[:0]
        with_judging, with_kept = find_near_duplicates(
            np.concatenate([keys, hash_bands(outside, near.threshold)]),
            load,
            near.threshold,
            judging if rule is not None else judging[:0],
            np.setdiff1d(source.learned, gone),
            is_judged_dropped=is_dropped,
        )

        def describe(match: NearMatch) -> str:
            return f"{match.jaccard:.2f} like {place_of(match.other)}"

        alike = {match.row: describe(match) for match in with_kept}
        contaminated = {match.row: describe(match) for match in with_judging} | contaminated
    return alike, contaminated


def _sort(numbers: Collection[int]) -> NDArray[np.int64]:
    return np.sort(np.fromiter(numbers, np.int64))


def _list_rows(source: FileConversations, reason: str, found: Mapping[int, str]) -> list[Damaged]:
    numbers = sorted(found)
    return [
        Damaged(c.source, c.position, f"{reason}: {found[number]}", c.canonical()[:500])
        for number, c in zip(numbers, source.load(numbers), strict=True)
    ]


def _split(source: FileConversations, threshold: float | None) -> NDArray[np.uint32]:
    """Write the words of all conversations; their MinHash keys ``[N, B]``."""
    tasks = [
        WordTask(block.number, block.checked, checked.offsets, threshold)
        for block, checked in zip(source.blocks, source.checked, strict=True)
    ]
    found = dict(_run(source, "comparing conversations", split_block, tasks))
    parts = [keys for _, keys in sorted(found.items()) if keys is not None]
    return np.concatenate([np.zeros((0, BANDS), np.uint32), *parts])


def _search(
    source: FileConversations, words: Words, rule: ContaminationRule
) -> Iterator[tuple[int, Contamination]]:
    """What judging texts are found in each block, by the number of its first conversation."""
    index = source.folder / "judging.npz"
    build_index(words, rule.ngram).save(index)
    tasks = [
        SearchTask(
            number=which,
            checked=source.blocks[which].checked,
            rows=np.asarray(rows, np.int64),
            index=index,
            threshold=rule.threshold,
        )
        for which, rows in source.by_block(source.learned.tolist())
    ]
    for number, found in _run(source, "looking for judging texts", search_block, tasks):
        yield int(source.bases[number]), found


def _run(
    source: FileConversations, what: str, task: Callable[[Any], Any], parts: Sequence[Any]
) -> Iterator[Any]:
    with progress_bar(what, len(parts)) as bar:
        for result in source.map_parts(task, parts):
            if source.is_large:
                bar.advance(1)
            yield result
