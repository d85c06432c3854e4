"""The closed list of operations that an artifact may hold."""

from collections.abc import Mapping

from sunloom.features.transformers.operations.backbone import EmbedImage
from sunloom.features.transformers.operations.combine import Chain, Polynomial, Product, Ratio
from sunloom.features.transformers.operations.curves import Interpolate, Power
from sunloom.features.transformers.operations.embedding import Embed
from sunloom.features.transformers.operations.hashing import Hash
from sunloom.features.transformers.operations.history import History
from sunloom.features.transformers.operations.images import ImageFigures
from sunloom.features.transformers.operations.levels import Lookup, OneHot
from sunloom.features.transformers.operations.moments import CalendarParts, Cycle, Since
from sunloom.features.transformers.operations.nearest import Nearest
from sunloom.features.transformers.operations.numeric import (
    Affine,
    Bins,
    Drop,
    Fill,
    Indicator,
)
from sunloom.features.transformers.operations.protocol import Operation
from sunloom.features.transformers.operations.spoken import LanguageCode, Mood
from sunloom.features.transformers.operations.texts import TermVector, TextFigures
from sunloom.features.transformers.operations.vectors import VectorLookup

OPERATIONS: Mapping[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        Affine,
        Bins,
        CalendarParts,
        Chain,
        Cycle,
        Drop,
        Embed,
        EmbedImage,
        Fill,
        Hash,
        History,
        ImageFigures,
        Indicator,
        Interpolate,
        LanguageCode,
        Lookup,
        Mood,
        Nearest,
        OneHot,
        Polynomial,
        Power,
        Product,
        Ratio,
        Since,
        TermVector,
        TextFigures,
        VectorLookup,
    )
}
"""Name in an artifact to class: a closed list, so that reading one runs no foreign code."""
