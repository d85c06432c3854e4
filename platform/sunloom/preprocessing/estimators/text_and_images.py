"""Estimators of text and image steps: vectorizers, statistics, language, sentiment, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
import polars as pl

from sunloom.config.preprocessing.text_and_image_steps import (
    HashingVectorizer,
    ImageEmbeddings,
    Language,
    SentenceEmbeddings,
    Sentiment,
    TfidfVectorizer,
)
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.counts import TermCounts
from sunloom.preprocessing.estimators.protocol import Accumulators, Estimator, for_each_column
from sunloom.preprocessing.operations.embeddings import (
    EmbedImage,
    EmbedText,
    embedding_size,
    sentence_model,
    sentence_revision,
    vision_revision,
)
from sunloom.preprocessing.operations.images import ImageFigures
from sunloom.preprocessing.operations.text import (
    LanguageCode,
    SentimentScores,
    TermVector,
    TextFigures,
    language_identifier,
    sentiment_analyzer,
)
from sunloom.preprocessing.tokenizer import Tokenizer


def _tokenizer_of(step: TfidfVectorizer | HashingVectorizer) -> Tokenizer:
    low, high = step.ngram_range
    return Tokenizer(
        analyzer=step.analyzer,
        low=low,
        high=high,
        lowercase=step.lowercase,
        stop_words=step.stop_words,
        pattern=step.token_pattern,
        binary=step.binary,
    )


def _count_terms(step: TfidfVectorizer, columns: Sequence[str], _schema: pl.Schema) -> Accumulators:
    return {name: TermCounts(name, _tokenizer_of(step)) for name in columns}


def _tfidf_of(step: TfidfVectorizer, name: str, counts: TermCounts) -> TermVector:
    vocabulary = choose_vocabulary(step, counts)
    if not vocabulary:
        raise DataError(
            f"Column {name!r} has no term that min_df and max_df leave.",
            "Lower min_df, raise max_df, or leave the column out.",
            name,
        )
    documents = np.array([counts.document_counts[term] for term in vocabulary], dtype=np.float64)
    # As if one more text held every term: no division by zero for a term of no text.
    smoothing = 1 if step.smooth_idf else 0
    idf = np.log((counts.texts + smoothing) / (documents + smoothing)) + 1
    return TermVector(
        column=name,
        names=tuple(f"{step.prefix}{term}" for term in vocabulary),
        terms=astuple(counts.tokenizer),
        vocabulary=pl.Series(vocabulary),
        weights=pl.Series(idf if step.use_idf else [], dtype=pl.Float64),
        norm=step.norm,
        sublinear=step.sublinear_tf,
    )


def choose_vocabulary(step: TfidfVectorizer, counts: TermCounts) -> list[str]:
    """The vocabulary, sorted: within the bounds, and the most frequent ones."""
    terms = np.array(sorted(counts.document_counts), dtype=object)
    if not terms.size:
        return []
    documents = np.array([counts.document_counts[term] for term in terms])
    low = step.min_df if isinstance(step.min_df, int) else step.min_df * counts.texts
    high = step.max_df if isinstance(step.max_df, int) else step.max_df * counts.texts
    mask = (documents >= low) & (documents <= high)
    if step.max_features is not None and mask.sum() > step.max_features:
        occurrences = np.array([counts.occurrences[term] for term in terms])
        # The same sort as scikit-learn's, so that ties between equally frequent terms fall alike.
        kept = (-occurrences[mask]).argsort()[: step.max_features]
        mask = np.isin(np.arange(len(terms)), np.flatnonzero(mask)[kept])
    return [str(term) for term in terms[mask]]


def _hashing_of(step: HashingVectorizer, name: str, _nothing: None) -> TermVector:
    return TermVector(
        column=name,
        names=tuple(f"{name}_{i}" for i in range(step.n_features)),
        terms=astuple(_tokenizer_of(step)),
        vocabulary=pl.Series([], dtype=pl.String),
        weights=pl.Series([], dtype=pl.Float64),
        norm=step.norm,
        alternate=step.alternate_sign,
    )


def _language_of(step: Language, name: str, _nothing: None) -> LanguageCode:
    languages = step.languages or ()
    # A missing library or an unknown language is an error of fitting, not of the first row.
    language_identifier(languages)
    return LanguageCode(name, languages, step.min_confidence, step.confidence)


def _sentiment_of(step: Sentiment, name: str, _nothing: None) -> SentimentScores:
    # As for the language: a missing library is an error of fitting.
    sentiment_analyzer()
    return SentimentScores(name, step.figures)


def _text_embedding_of(step: SentenceEmbeddings, name: str, _nothing: None) -> EmbedText:
    # Artifacts hold no weights: a later model of the same name must not be taken for this one.
    revision = sentence_revision(step.model)
    model = sentence_model(step.model, revision)
    # sentence-transformers 6 has another name for it.
    get_size = getattr(model, "get_embedding_dimension", None)
    size = int(get_size() if get_size else model.get_sentence_embedding_dimension())
    return EmbedText(
        column=name,
        names=tuple(f"{name}_{i}" for i in range(size)),
        model=step.model,
        batch_size=step.batch_size,
        normalize=step.normalize,
        revision=revision,
    )


def _image_embedding_of(step: ImageEmbeddings, name: str, _nothing: None) -> EmbedImage:
    # The model is loaded once per process: a second column costs a fingerprint.
    revision = vision_revision(step.model, step.revision)
    size = embedding_size(step.model, revision, step.pooling)
    return EmbedImage(
        column=name,
        names=tuple(f"{name}_{i}" for i in range(size)),
        model=step.model,
        revision=revision,
        pooling=step.pooling,
        batch_size=step.batch_size,
        normalize=step.normalize,
        keep=step.keep,
    )


TEXT_AND_IMAGES: Mapping[str, Estimator] = {
    "text_statistics": Estimator(
        ("category",), for_each_column(lambda step, name, _: TextFigures(name, step.figures))
    ),
    "language": Estimator(("category",), for_each_column(_language_of)),
    "sentiment": Estimator(("category",), for_each_column(_sentiment_of)),
    "tfidf_vectorizer": Estimator(("category",), for_each_column(_tfidf_of), _count_terms),
    "hashing_vectorizer": Estimator(("category",), for_each_column(_hashing_of)),
    "sentence_embeddings": Estimator(("category",), for_each_column(_text_embedding_of)),
    "image_statistics": Estimator(
        ("bytes",),
        for_each_column(
            lambda step, name, _: ImageFigures(name, step.figures, step.histogram_bins)
        ),
    ),
    "image_embeddings": Estimator(("bytes",), for_each_column(_image_embedding_of)),
}
