"""Table of the operations that an artifact may hold."""

from collections.abc import Mapping

from sunloom.preprocessing.operations.categories import CategoryLookup, FeatureHash, OneHot
from sunloom.preprocessing.operations.combine import (
    ChainedImputation,
    NeighborImputation,
    Polynomial,
    Product,
    Ratio,
)
from sunloom.preprocessing.operations.datetimes import CalendarParts, Cycle, ElapsedTime
from sunloom.preprocessing.operations.embeddings import EmbedImage, EmbedText
from sunloom.preprocessing.operations.history import RowHistory
from sunloom.preprocessing.operations.images import ImageFigures
from sunloom.preprocessing.operations.numeric import (
    Affine,
    Discretize,
    Drop,
    Fill,
    Indicator,
    Interpolate,
    Power,
)
from sunloom.preprocessing.operations.protocol import Operation
from sunloom.preprocessing.operations.text import (
    LanguageCode,
    SentimentScores,
    TermVector,
    TextFigures,
)
from sunloom.preprocessing.operations.vectors import NearestRows, VectorLookup

# Tags stand in stored artifacts: a class may be renamed, its tag may not.
OPERATIONS: Mapping[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        Affine,
        Discretize,
        CalendarParts,
        ChainedImputation,
        Cycle,
        Drop,
        EmbedText,
        EmbedImage,
        Fill,
        FeatureHash,
        RowHistory,
        ImageFigures,
        Indicator,
        Interpolate,
        LanguageCode,
        CategoryLookup,
        SentimentScores,
        NearestRows,
        NeighborImputation,
        OneHot,
        Polynomial,
        Power,
        Product,
        Ratio,
        ElapsedTime,
        TermVector,
        TextFigures,
        VectorLookup,
    )
}
"""Tag in an artifact to class: a closed list, so that loading an artifact runs no foreign code."""
