"""Text: terms and their weights; the rest has nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.text_steps import (
    HashingVectorizer,
    Language,
    SentenceEmbeddings,
    Sentiment,
    TextStatistics,
    TfidfVectorizer,
)
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.term_counts import Documents
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.operations.language import (
    LanguageCode,
    Mood,
    language_identifier,
    sentiment_analyzer,
)
from sunloom.preprocessing.operations.text import TermVector, TextFigures, plain_terms
from sunloom.preprocessing.operations.text_embedding import Embed, pinned_sentences, sentence_model
from sunloom.preprocessing.tokenizer import Tokenizer


def _terms(step: TfidfVectorizer | HashingVectorizer) -> Tokenizer:
    return Tokenizer(
        step.analyzer,
        *step.ngram_range,
        step.lowercase,
        step.stop_words,
        step.token_pattern,
        step.binary,
    )


def _documents(step: TfidfVectorizer, columns: Sequence[str], _schema: Schema) -> Learnt:
    return {name: Documents(name, _terms(step)) for name in columns}


def _tfidf(step: TfidfVectorizer, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    fitted = FittedStep()
    for name in columns:
        found: Documents = learnt[name].finish()
        vocabulary = chosen_terms(step, found)
        if not vocabulary:
            raise DataError(
                f"Column {name!r} has no term that min_df and max_df leave.",
                "Lower min_df, raise max_df, or leave the column out.",
                name,
            )
        spread = np.array([found.spread[term] for term in vocabulary], dtype=np.float64)
        more = 1 if step.smooth_idf else 0
        rarity = np.log((found.texts + more) / (spread + more)) + 1
        operation = TermVector(
            column=name,
            names=tuple(f"{step.prefix}{term}" for term in vocabulary),
            terms=plain_terms(found.terms),
            vocabulary=pl.Series(vocabulary),
            weights=pl.Series(rarity if step.use_idf else [], dtype=pl.Float64),
            norm=step.norm,
            sublinear=step.sublinear_tf,
        )
        fitted.operations.append(operation)
    return fitted


def chosen_terms(step: TfidfVectorizer, found: Documents) -> list[str]:
    """The vocabulary, sorted: within the bounds, and the most frequent ones."""
    terms = np.array(sorted(found.spread), dtype=object)
    if not terms.size:
        return []
    spread = np.array([found.spread[term] for term in terms])
    low = step.min_df if isinstance(step.min_df, int) else step.min_df * found.texts
    high = step.max_df if isinstance(step.max_df, int) else step.max_df * found.texts
    mask = (spread >= low) & (spread <= high)
    if step.max_features is not None and mask.sum() > step.max_features:
        often = np.array([found.occurrences[term] for term in terms])
        # The same sort as scikit-learn's, so that equally frequent terms fall the same way.
        kept = (-often[mask]).argsort()[: step.max_features]
        mask = np.isin(np.arange(len(terms)), np.flatnonzero(mask)[kept])
    return [str(term) for term in terms[mask]]


def _hashing(step: HashingVectorizer, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    nothing = pl.Series([], dtype=pl.String), pl.Series([], dtype=pl.Float64)
    return FittedStep(
        [
            TermVector(
                name,
                tuple(f"{name}_{i}" for i in range(step.n_features)),
                plain_terms(_terms(step)),
                *nothing,
                step.norm,
                alternate=step.alternate_sign,
            )
            for name in columns
        ]
    )


def _statistics(step: TextStatistics, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    return FittedStep([TextFigures(name, step.figures) for name in columns])


def _language(step: Language, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    languages = step.languages or ()
    # What is missing or unknown is told when fitting, not at the first row.
    language_identifier(languages)
    made = (LanguageCode(n, languages, step.min_confidence, step.confidence) for n in columns)
    return FittedStep(list(made))


def _sentiment(step: Sentiment, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    sentiment_analyzer()
    return FittedStep([Mood(name, step.figures) for name in columns])


def _embeddings(step: SentenceEmbeddings, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    revision = pinned_sentences(step.model)
    model = sentence_model(step.model, revision)
    # sentence-transformers 6 has another name for it.
    ask = getattr(model, "get_embedding_dimension", None)
    size = int(ask() if ask else model.get_sentence_embedding_dimension())
    how = (step.model, step.batch_size, step.normalize, revision)
    fitted = FittedStep()
    for name in columns:
        names = tuple(f"{name}_{i}" for i in range(size))
        fitted.operations.append(Embed(name, names, *how))
    return fitted


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


TEXTUAL: Mapping[str, Estimator] = {
    "text_statistics": Estimator(("category",), _nothing, _statistics, always("category")),
    "language": Estimator(("category",), _nothing, _language, always("category")),
    "sentiment": Estimator(("category",), _nothing, _sentiment, always("category")),
    "tfidf_vectorizer": Estimator(("category",), _documents, _tfidf, always("category")),
    "hashing_vectorizer": Estimator(("category",), _nothing, _hashing, always("category")),
    "sentence_embeddings": Estimator(("category",), _nothing, _embeddings, always("category")),
}
