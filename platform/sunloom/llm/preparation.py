"""What a recipe would learn from, shown without training: counts, lengths, examples."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sunloom.config.llm import LlmRecipe
from sunloom.core.files import write_atomic
from sunloom.core.model_registry import open_registry
from sunloom.data.quarantine import QuarantineWriter
from sunloom.llm.base_models import require_start, resolve_model
from sunloom.llm.conversation_files import FileCounts
from sunloom.llm.conversation_split import ConversationSplit, load_split
from sunloom.llm.encoding import Encoded
from sunloom.llm.models import load_tokenizer
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

_EXAMPLES = 3
_OVERLAPS = "overlaps.jsonl"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ border: 1px solid #bbb; padding: .2rem .6rem; text-align: left }}
pre {{ background: #f5f5f5; padding: .8rem; white-space: pre-wrap; color: #555 }}
pre b {{ color: #0a6b2d }}
pre s {{ color: #a31515; text-decoration: none }}
</style>
<h1>{title}</h1>
{figures}
{files}
<img alt="Lengths of the conversations in tokens" src="data:image/png;base64,{picture}">
<h2>First conversations, what is learned in green, what is unlearned in red</h2>
{examples}
</html>
"""


@dataclass(frozen=True)
class Passage:
    """A part of a conversation's text.

    Attributes:
        text: As the model reads it, marks included.
        is_trained: Whether its tokens carry loss.
        is_unwanted: Whether they are to become less probable.
    """

    text: str
    is_trained: bool
    is_unwanted: bool = False


@dataclass(frozen=True)
class PreparedConversations:
    """A recipe's conversations as training would see them.

    Attributes:
        files: What became of each file's rows; empty where a plugin makes the conversations.
        train: Conversations of a pass over the data.
        held_out: Conversations that would judge.
        near_duplicates: Conversations that are alike but for a few words to earlier ones.
        contaminated: Conversations with content that judges.
        overlaps: JSON lines of both, used or not, with source, position and what they are like.
        set_aside: Reason to number of rows that are not used.
        quarantine: JSON lines of these rows with source, position and reason.
        tokens: Of all training conversations.
        trained_tokens: Of these, the ones with loss.
        length_median: Tokens of a conversation.
        length_p95: Nineteen of twenty conversations are no longer.
        length_max: The longest.
        cut: Conversations that lose their end to ``data.max_length``.
        tokens_by_file: Tokens of a pass by the file that they come from; empty for a plugin.
        histogram: PNG of the lengths.
        report: HTML page of all this.
        examples: The first conversations, in passages.
    """

    files: tuple[FileCounts, ...]
    train: int
    held_out: int
    near_duplicates: int
    contaminated: int
    overlaps: str | None
    set_aside: dict[str, int]
    quarantine: str | None
    tokens: int
    trained_tokens: int
    length_median: int
    length_p95: int
    length_max: int
    cut: int
    tokens_by_file: dict[str, int]
    histogram: str
    report: str
    examples: tuple[tuple[Passage, ...], ...]


def prepare(recipe: LlmRecipe) -> PreparedConversations:
    """Read, check and tokenise a recipe's conversations, without training.

    Raises:
        UsageError: A file does not exist, its format cannot be told, or an adapter has no base.
        DataError: No conversation can be learned from.
    """
    require_start(recipe)
    split = load_split(recipe, is_report=True)
    tokenizer = _tokenizer_of(recipe, split)
    folder = recipe.paths.outputs / "llm" / "prepare" / recipe.output.name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tokens-", dir=folder.absolute()) as tokens:
        tokenised = split.tokenise(tokenizer, recipe.longest_row, Path(tokens))
        lengths, examples = tokenised.rows.lengths, tokenised.rows[:_EXAMPLES]
        # Views of files that are about to go.
        examples = [replace(row, ids=row.ids.copy(), mask=row.mask.copy()) for row in examples]
    if recipe.is_judged:
        split.require_judgeable(tokenizer, recipe.longest_row)
    quarantine = split.write_quarantine(folder)
    with QuarantineWriter(folder / _OVERLAPS) as overlaps:
        for row in split.overlaps:
            overlaps.write(asdict(row))
    prepared = PreparedConversations(
        files=split.files,
        train=len(lengths),
        held_out=len(split.held_out),
        near_duplicates=sum(file.near_duplicates for file in split.files),
        contaminated=sum(file.contaminated for file in split.files),
        overlaps=str(overlaps.path) if overlaps.path else None,
        set_aside=split.count_reasons(),
        quarantine=str(quarantine) if quarantine else None,
        tokens=int(lengths.sum(dtype=np.int64)),
        trained_tokens=int(tokenised.trained.sum()),
        length_median=int(np.median(lengths)),
        length_p95=int(np.percentile(lengths, 95)),
        length_max=int(lengths.max()),
        cut=tokenised.cut,
        tokens_by_file=tokenised.tokens_by_file,
        histogram=str(_plot_lengths(lengths, recipe, folder / "lengths.png")),
        report=str(folder / "report.html"),
        examples=tuple(split_passages(tokenizer, row) for row in examples),
    )
    write_atomic(folder / "report.html", render_report(prepared, recipe.output.name))
    return prepared


def render_report(prepared: PreparedConversations, name: str) -> str:
    """One page without outside parts: counts, the histogram, examples with the trained part green.

    Args:
        prepared: What it shows.
        name: Of the model that would be trained.
    """
    files = []
    for file in prepared.files:
        tokens = prepared.tokens_by_file.get(str(Path(file.path).absolute()), 0)
        aside = sum(file.quarantined.values())
        alike = (file.duplicates, file.near_duplicates, file.contaminated)
        counts = (file.rows, file.train, file.held_out, *alike, aside, tokens)
        files.append((file.path, file.format, *counts))
    figures = {
        "conversations to learn from": prepared.train,
        "held-out conversations": prepared.held_out,
        "near-duplicates": prepared.near_duplicates,
        "with content that judges": prepared.contaminated,
        "tokens": prepared.tokens,
        "tokens with loss": f"{prepared.trained_tokens} "
        f"({prepared.trained_tokens / prepared.tokens:.0%})",
        "length, median / 95 % / longest": f"{prepared.length_median} / {prepared.length_p95} / "
        f"{prepared.length_max}",
        "cut at data.max_length": prepared.cut,
        **{f"set aside: {reason}": count for reason, count in prepared.set_aside.items()},
    }
    picture = b64encode(Path(prepared.histogram).read_bytes()).decode()
    examples = "".join(
        "<pre>"
        + "".join(
            f"<{mark}>{escape(passage.text)}</{mark}>" if mark else escape(passage.text)
            for passage in passages
            for mark in ["" if not passage.is_trained else "s" if passage.is_unwanted else "b"]
        )
        + "</pre>"
        for passages in prepared.examples
    )
    columns = (
        "file", "format", "rows", "train", "held out", "duplicates", "near-duplicates",
        "contaminated", "set aside", "tokens",
    )  # fmt: skip
    return _PAGE.format(
        title=escape(f"What {name} would learn from"),
        figures=_table((), figures.items()),
        files=_table(columns, files) if files else "",
        picture=picture,
        examples=examples,
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def split_passages(tokenizer: Any, row: Encoded) -> tuple[Passage, ...]:
    """A row's text in runs of tokens with and without loss; of a pair both, one after the other."""
    passages: list[Passage] = []
    for number, sequence in enumerate(row.sequences()):
        if number:
            passages.append(Passage("\n\nrejected:\n", is_trained=False))
        pairs = zip(sequence.mask.tolist(), sequence.ids.tolist(), strict=True)
        for is_trained, run in groupby(pairs, key=lambda pair: pair[0]):
            text = tokenizer.decode([token for _, token in run])
            is_unwanted = is_trained and (number == 1 or not row.label)
            passages.append(Passage(text, is_trained, is_unwanted))
    return tuple(passages)


def _tokenizer_of(recipe: LlmRecipe, split: ConversationSplit) -> Any:
    if recipe.model.base_model is not None:
        location, _ = resolve_model(recipe.model, open_registry(recipe))
        return load_tokenizer(location, recipe.model)
    shape = recipe.model.architecture
    texts = conversation_texts(split.train.sample(shape.tokenizer_conversations))
    return build_tokenizer(texts, shape.vocabulary, shape.max_length)


def _plot_lengths(lengths: Any, recipe: LlmRecipe, path: Path) -> Path:
    # Without pyplot there is no global state and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.hist(lengths, bins=min(40, len(lengths)))
    panel.axvline(recipe.data.max_length, color="tab:red", linewidth=0.9, label="data.max_length")
    panel.set(title=f"{len(lengths)} conversations", xlabel="tokens", ylabel="conversations")
    panel.legend()
    figure.savefig(path, dpi=120)
    return path
