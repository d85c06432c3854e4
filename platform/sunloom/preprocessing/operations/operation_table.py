"""The closed list of operations that an artifact may hold."""

from collections.abc import Mapping

from sunloom.preprocessing.operations.categories import CategoryLookup, OneHot
from sunloom.preprocessing.operations.combine import Chain, Polynomial, Product, Ratio
from sunloom.preprocessing.operations.datetimes import CalendarParts, Cycle, Since
from sunloom.preprocessing.operations.hashing import Hash
from sunloom.preprocessing.operations.history import RowHistory
from sunloom.preprocessing.operations.image_embedding import EmbedImage
from sunloom.preprocessing.operations.images import ImageFigures
from sunloom.preprocessing.operations.language import LanguageCode, Mood
from sunloom.preprocessing.operations.neighbours import Nearest
from sunloom.preprocessing.operations.nonlinear import Interpolate, Power
from sunloom.preprocessing.operations.numeric import Affine, Discretize, Drop, Fill, Indicator
from sunloom.preprocessing.operations.protocol import Operation
from sunloom.preprocessing.operations.text import TermVector, TextFigures
from sunloom.preprocessing.operations.text_embedding import Embed
from sunloom.preprocessing.operations.vector_lookup import VectorLookup

OPERATIONS: Mapping[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        Affine,
        Discretize,
        CalendarParts,
        Chain,
        Cycle,
        Drop,
        Embed,
        EmbedImage,
        Fill,
        Hash,
        RowHistory,
        ImageFigures,
        Indicator,
        Interpolate,
        LanguageCode,
        CategoryLookup,
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
