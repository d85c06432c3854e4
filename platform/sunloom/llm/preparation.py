"""What a recipe would learn from, shown without training: counts, lengths, examples."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sunloom.config.llm import LlmRecipe
from sunloom.core.model_registry import open_registry
from sunloom.llm.base_models import require_start, resolve_model
from sunloom.llm.conversation_files import FileCounts
from sunloom.llm.conversation_split import ConversationSplit, load_split
from sunloom.llm.encoding import Encoded
from sunloom.llm.models import load_tokenizer
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts

_EXAMPLES = 3


@dataclass(frozen=True)
class Passage:
    """A part of a conversation's text.

    Attributes:
        text: As the model reads it, marks included.
        is_trained: Whether its tokens carry loss.
    """

    text: str
    is_trained: bool


@dataclass(frozen=True)
class PreparedConversations:
    """A recipe's conversations as training would see them.

    Attributes:
        files: What became of each file's rows; empty where a plugin makes the conversations.
        train: Conversations of a pass over the data.
        held_out: Conversations that would judge.
        set_aside: Reason to number of rows that are not used.
        quarantine: JSON lines of these rows with source, position and reason.
        tokens: Of all training conversations.
        trained_tokens: Of these, the ones with loss.
        length_median: Tokens of a conversation.
        length_p95: Nineteen of twenty conversations are no longer.
        length_max: The longest.
        cut: Conversations that lose their end to ``data.max_length``.
        histogram: PNG of the lengths.
        examples: The first conversations, in passages.
    """

    files: tuple[FileCounts, ...]
    train: int
    held_out: int
    set_aside: dict[str, int]
    quarantine: str | None
    tokens: int
    trained_tokens: int
    length_median: int
    length_p95: int
    length_max: int
    cut: int
    histogram: str
    examples: tuple[tuple[Passage, ...], ...]


def prepare(recipe: LlmRecipe) -> PreparedConversations:
    """Read, check and tokenise a recipe's conversations, without training.

    Raises:
        UsageError: A file does not exist, its format cannot be told, or an adapter has no base.
        DataError: No conversation can be learned from.
    """
    require_start(recipe)
    split = load_split(recipe)
    tokenizer = _tokenizer_of(recipe, split)
    folder = recipe.paths.outputs / "llm" / "prepare" / recipe.output.name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tokens-", dir=folder.absolute()) as tokens:
        tokenised = split.tokenise(tokenizer, recipe.data.max_length, Path(tokens))
        lengths, examples = tokenised.rows.lengths, tokenised.rows[:_EXAMPLES]
        # Views of files that are about to go.
        examples = [Encoded(row.ids.copy(), row.mask.copy()) for row in examples]
    if recipe.is_adapter:
        split.require_judgeable(tokenizer, recipe.data.max_length)
    quarantine = split.write_quarantine(folder)
    return PreparedConversations(
        files=split.files,
        train=len(lengths),
        held_out=len(split.held_out),
        set_aside=split.count_reasons(),
        quarantine=str(quarantine) if quarantine else None,
        tokens=int(lengths.sum(dtype=np.int64)),
        trained_tokens=int(tokenised.trained.sum()),
        length_median=int(np.median(lengths)),
        length_p95=int(np.percentile(lengths, 95)),
        length_max=int(lengths.max()),
        cut=tokenised.cut,
        histogram=str(_plot_lengths(lengths, recipe, folder / "lengths.png")),
        examples=tuple(split_passages(tokenizer, row) for row in examples),
    )


def split_passages(tokenizer: Any, row: Encoded) -> tuple[Passage, ...]:
    """A row's text in runs of tokens with and without loss."""
    pairs = zip(row.mask.tolist(), row.ids.tolist(), strict=True)
    return tuple(
        Passage(tokenizer.decode([token for _, token in run]), is_trained)
        for is_trained, run in groupby(pairs, key=lambda pair: pair[0])
    )


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
